//! Values of flags, from text. Each refuses what makes no sense with one line, in docker's words
//! where docker has some.

pub mod devices;
pub mod limits;
pub mod mounts;
pub mod names;
pub mod namespaces;
pub mod security;

use std::collections::BTreeMap;

/// Bytes, from a number with an optional unit: b, k, m, g, t, and the same with `b` or `ib`.
/// Powers of 1024, as docker's.
pub fn bytes(text: &str) -> Result<u64, String> {
    let bad = || format!("{text:?} is no size (like 512m or 2g)");
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(lower.len());
    let (number, unit) = lower.split_at(digits);
    let shift = match unit.strip_suffix("ib").or(unit.strip_suffix('b')).unwrap_or(unit) {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return Err(bad()),
    };
    let value = match number.split_once('.') {
        None => number.parse::<u64>().ok().and_then(|n| n.checked_mul(1 << shift)),
        Some(_) => fraction(number, 1 << shift),
    };
    value.filter(|&value| value > 0).ok_or_else(bad)
}

/// CPUs, in thousandths.
pub fn milli_cpus(text: &str) -> Result<u64, String> {
    let value = match text.split_once('.') {
        None => text.parse::<u64>().ok().and_then(|n| n.checked_mul(1000)),
        Some(_) => fraction(text, 1000),
    };
    let bad = || format!("{text:?} is no number of cpus (like 1.5; at least 0.01)");
    value.filter(|&value| value >= 10).ok_or_else(bad)
}

/// A decimal number times `scale`, in whole numbers, cut off below.
fn fraction(text: &str, scale: u64) -> Option<u64> {
    let (whole, part) = text.split_once('.')?;
    let part = &part[..part.len().min(9)];
    let digits = |text: &str| if text.is_empty() { Some(0) } else { text.parse::<u64>().ok() };
    if whole.is_empty() && part.is_empty() {
        return None;
    }
    let below = u128::from(digits(part)?) * u128::from(scale)
        / 10_u128.pow(u32::try_from(part.len()).ok()?);
    digits(whole)?.checked_mul(scale)?.checked_add(u64::try_from(below).ok()?)
}

/// `/path[:option,option]` of `--tmpfs`, several times.
pub fn tmpfs(entries: &[String]) -> BTreeMap<String, Vec<String>> {
    let parse = |entry: &String| match entry.split_once(':') {
        None => (entry.clone(), Vec::new()),
        Some((path, options)) => {
            let options = options.split(',').filter(|option| !option.is_empty());
            (path.to_owned(), options.map(str::to_owned).collect())
        }
    };
    entries.iter().map(parse).collect()
}

/// `name=value`.
pub fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(format!("{text:?} is not NAME=VALUE")),
    }
}

/// A value of a switch, in all of docker's spellings.
pub fn switch(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("must be true or false".to_owned()),
    }
}

/// `--pull`.
pub fn pull(text: &str) -> Result<String, String> {
    match text {
        "missing" | "never" => Ok(text.to_owned()),
        "always" => Err("always is not supported yet (images are loaded, not pulled)".to_owned()),
        _ => Err(format!("invalid pull option: {text:?}: must be one of \"missing\" or \"never\"")),
    }
}

/// `--platform`.
pub fn platform(text: &str) -> Result<String, String> {
    if matches!(text, "linux" | "linux/amd64" | "linux/x86_64" | "linux/amd64/v1") {
        return Ok(text.to_owned());
    }
    Err(format!("{text:?} is not supported: guests are linux/amd64"))
}

/// Labels: a name without a value has an empty one.
pub fn labels(entries: &[String], files: &[String]) -> Result<BTreeMap<String, String>, String> {
    let mut lines = Vec::new();
    for path in files {
        let text =
            std::fs::read_to_string(path).map_err(|error| format!("label file {path}: {error}"))?;
        let line = |line: &str| line.trim().to_owned();
        let wanted = |line: &String| !line.is_empty() && !line.starts_with('#');
        lines.extend(text.lines().map(line).filter(wanted));
    }
    lines.extend(entries.iter().cloned());
    let parse = |entry: &String| {
        let (name, value) = entry.split_once('=').unwrap_or((entry, ""));
        match name {
            "" => Err(format!("label {entry:?} has no name")),
            name => Ok((name.to_owned(), value.to_owned())),
        }
    };
    lines.iter().map(parse).collect()
}

/// One `-e`: a bare name takes its value from husk's own environment. Without one it stays bare,
/// and takes the image's variable away, as docker has it.
pub fn env_entry(entry: &str) -> String {
    match std::env::var(entry) {
        Ok(value) if !entry.contains('=') => format!("{entry}={value}"),
        _ => entry.to_owned(),
    }
}

/// Lines of an `--env-file`: comments and empty lines are passed over.
pub fn env_file(path: &str) -> Result<Vec<String>, String> {
    let text =
        std::fs::read_to_string(path).map_err(|error| format!("env file {path}: {error}"))?;
    let mut entries = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let name = line.split('=').next().unwrap_or_default();
        if name.is_empty() || name.contains(char::is_whitespace) {
            return Err(format!("env file {path}: line {}: {name:?} is no name", number + 1));
        }
        // Unlike -e, a name that is not set here says nothing.
        entries.extend(Some(env_entry(line)).filter(|entry| entry.contains('=')));
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_dockers_units() {
        for (text, value) in
            [("512m", 512 << 20), ("2g", 2 << 30), ("1.5GiB", 3 << 29), ("64kb", 65536), ("7", 7)]
        {
            assert_eq!(bytes(text), Ok(value), "{text}");
        }
        for bad in ["", "m", "-1", "1x", "0", "1..5m", "99999999999999t", ".m", "1e3"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn cpus_are_decimal_and_positive() {
        for (text, value) in
            [("1", 1000), ("0.5", 500), (".25", 250), ("1.", 1000), ("2.0009", 2000)]
        {
            assert_eq!(milli_cpus(text), Ok(value), "{text}");
        }
        for bad in ["0", "0.001", "-1", "x", ".", "", "nan", "inf"] {
            assert!(milli_cpus(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn tmpfs_options_follow_the_first_colon() {
        let parsed = tmpfs(&["/a".to_owned(), "/b:size=1m,ro".to_owned()]);
        assert!(parsed["/a"].is_empty());
        assert_eq!(parsed["/b"], ["size=1m", "ro"]);
    }
}
