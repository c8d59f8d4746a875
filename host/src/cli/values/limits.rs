//! Values of the flags that limit a container.

use super::bytes;
use crate::engine::record::Rlimit;

/// docker's names, which are those of setrlimit(2) in lower case.
const ULIMITS: [&str; 15] = [
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// `--memory-swap`: a size, or -1.
pub fn swap(text: &str) -> Result<i64, String> {
    if text == "-1" {
        return Ok(-1);
    }
    i64::try_from(bytes(text)?).map_err(|_| format!("{text:?} is too much"))
}

/// `--ulimit name=soft[:hard]`.
pub fn ulimit(text: &str) -> Result<Rlimit, String> {
    let (name, values) =
        text.split_once('=').ok_or_else(|| format!("invalid ulimit argument: {text}"))?;
    if !ULIMITS.contains(&name) {
        return Err(format!("invalid ulimit type: {name}"));
    }
    let values: Vec<&str> = values.split(':').collect();
    let number = |text: &str| {
        let value = text.parse::<i64>().ok().filter(|&value| value >= -1);
        value.ok_or_else(|| format!("invalid ulimit argument: {text:?} is no number"))
    };
    let (soft, hard) = match values.as_slice() {
        [both] => (number(both)?, number(both)?),
        [soft, hard] => (number(soft)?, number(hard)?),
        _ => {
            return Err(format!(
                "too many limit value arguments - {}, can only have up to two, `soft[:hard]`",
                values.join(":")
            ));
        }
    };
    if hard != -1 && (soft == -1 || soft > hard) {
        let soft = if soft == -1 { "-1 (no limit)".to_owned() } else { soft.to_string() };
        return Err(format!(
            "ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}"
        ));
    }
    Ok(Rlimit { name: name.to_owned(), soft, hard })
}

/// The last of each name, as docker has it.
pub fn last_of_each(limits: &[Rlimit]) -> Vec<Rlimit> {
    let mut kept: Vec<Rlimit> = Vec::new();
    for limit in limits {
        kept.retain(|other| other.name != limit.name);
        kept.push(limit.clone());
    }
    kept.sort_by(|one, other| one.name.cmp(&other.name));
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ulimits_are_dockers() {
        let limit = ulimit("nofile=1024:2048").unwrap();
        assert_eq!((limit.soft, limit.hard), (1024, 2048));
        assert_eq!(ulimit("core=-1").unwrap().hard, -1);
        for (bad, words) in [
            ("nofile", "invalid ulimit argument"),
            ("as=1", "invalid ulimit type: as"),
            ("nofile=x", "no number"),
            ("nofile=2:1", "2 > 1"),
            ("nofile=-1:1", "less than or equal"),
            ("nofile=1:2:3", "up to two"),
            ("nofile=-2", "no number"),
        ] {
            let error = ulimit(bad).unwrap_err();
            assert!(error.contains(words), "{bad}: {error}");
        }
        let both = [ulimit("nproc=1").unwrap(), ulimit("nproc=2").unwrap()];
        assert_eq!(last_of_each(&both), both[1..]);
    }

    #[test]
    fn swap_is_a_size_or_without_end() {
        assert_eq!((swap("-1"), swap("1g")), (Ok(-1), Ok(1 << 30)));
        assert!(swap("-2").is_err());
    }
}
