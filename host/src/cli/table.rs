//! Columns of text, as docker lays them out: each as wide as its widest cell, three spaces apart.

/// Prints rows below a heading. Every row has as many cells as the heading.
#[must_use]
pub fn layout(heading: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = heading.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let heading = heading.iter().map(ToString::to_string).collect();
    let mut out = String::new();
    for row in std::iter::once(&heading).chain(rows) {
        let mut line = String::new();
        for (width, cell) in widths.iter().zip(row) {
            line.push_str(&format!("{cell:<width$}   "));
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// Some time ago, in docker's words.
#[must_use]
pub fn ago(seconds: i64) -> String {
    let (count, unit) = match seconds.max(0) {
        0 => return "Less than a second".to_owned(),
        s @ 1..60 => (s, "second"),
        s @ 60..3600 => (s / 60, "minute"),
        s @ 3600..172_800 => (s / 3600, "hour"),
        s @ 172_800..1_209_600 => (s / 86_400, "day"),
        s @ 1_209_600..5_184_000 => (s / 604_800, "week"),
        s @ 5_184_000..63_072_000 => (s / 2_592_000, "month"),
        s => (s / 31_536_000, "year"),
    };
    match (count, unit) {
        (1, "minute") => "About a minute".to_owned(),
        (1, "hour") => "About an hour".to_owned(),
        (1, _) => format!("1 {unit}"),
        _ => format!("{count} {unit}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = vec![vec!["a".to_owned(), "long cell".to_owned(), String::new()]];
        assert_eq!(layout(&["ID", "X", "Y"], &rows), "ID   X           Y\na    long cell\n");
    }

    #[test]
    fn times_read_as_dockers() {
        assert_eq!(ago(59), "59 seconds");
        assert_eq!(ago(61), "About a minute");
        assert_eq!(ago(7300), "2 hours");
    }
}
