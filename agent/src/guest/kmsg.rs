//! Records of the kernel's log as lines of JSON: Documentation/ABI/testing/dev-kmsg.
//!
//! ```text
//! 6,339,5140900,-;NET: Registered PF_PACKET protocol family
//!  SUBSYSTEM=net
//! ```

use std::time::Duration;

use serde_json::{Map, Value};

use crate::log::PREFIX;

/// Names of syslog(2)'s levels.
const LEVELS: [&str; 8] =
    ["emergency", "alert", "critical", "error", "warning", "notice", "info", "debug"];
/// Longest name before a colon that counts as a subsystem.
const MAX_SUBSYSTEM_LEN: usize = 32;
const MICROS: u64 = 1_000_000;
const DAY: u64 = 86_400;

/// A record.
#[derive(Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// syslog(2)'s.
    pub level: u8,
    /// One more than that of the record before.
    pub sequence: u64,
    /// Since the kernel's start.
    pub time: Duration,
    text: &'a str,
}

impl<'a> Record<'a> {
    /// Reads one; nothing when it is none.
    pub fn parse(record: &'a str) -> Option<Self> {
        let (prefix, text) = record.split_once(';')?;
        let mut numbers = prefix.split(',');
        let priority: u32 = numbers.next()?.parse().ok()?;
        let sequence = numbers.next()?.parse().ok()?;
        let time = Duration::from_micros(numbers.next()?.parse().ok()?);
        // The facility is above the level.
        let level = u8::try_from(priority & 7).ok()?;
        Some(Self { level, sequence, time, text: text.lines().next().unwrap_or_default() })
    }

    /// As a line. `started` is the wall clock of the kernel's start.
    pub fn line(&self, started: Duration) -> String {
        let mut target = "kernel";
        let mut message = self.text;
        let mut fields = Map::new();
        if let Some(text) = self.text.strip_prefix(PREFIX) {
            target = "agent";
            message = text;
            if let Some((before, object)) = text.rsplit_once(" {")
                && let Ok(found) = serde_json::from_str::<Map<_, _>>(&format!("{{{object}"))
            {
                (message, fields) = (before, found);
            }
        }
        let mut line = Map::new();
        line.insert("time".to_owned(), timestamp(started + self.time).into());
        line.insert("level".to_owned(), LEVELS[usize::from(self.level & 7)].into());
        line.insert("target".to_owned(), target.into());
        if let Some((subsystem, rest)) = subsystem(message) {
            line.insert("subsystem".to_owned(), subsystem.into());
            message = rest;
        }
        line.insert("message".to_owned(), unescape(message).into());
        for (name, value) in fields {
            line.entry(name).or_insert(value);
        }
        finish(line)
    }
}

/// A line about the log itself: how many records went by unread.
pub fn lost(count: u64, started: Duration, now: Duration) -> String {
    let mut line = Map::new();
    line.insert("time".to_owned(), timestamp(started + now).into());
    line.insert("level".to_owned(), "warning".into());
    line.insert("target".to_owned(), "agent".into());
    line.insert("subsystem".to_owned(), "logs".into());
    line.insert("message".to_owned(), "lines were lost".into());
    line.insert("lost".to_owned(), count.into());
    finish(line)
}

fn finish(line: Map<String, Value>) -> String {
    let mut text = Value::Object(line).to_string();
    text.push('\n');
    text
}

/// `NET: text` as name and text.
fn subsystem(message: &str) -> Option<(&str, &str)> {
    let (name, rest) = message.split_once(": ")?;
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b'/');
    let is_name = (1..=MAX_SUBSYSTEM_LEN).contains(&name.len()) && name.bytes().all(plain);
    is_name.then_some((name, rest))
}

/// The kernel writes control characters and its own backslash as `\xNN`.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("\\x") {
        bytes.extend_from_slice(before.as_bytes());
        match after.get(..2).and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = after.get(2..).unwrap_or_default();
            }
            None => {
                bytes.extend_from_slice(b"\\x");
                rest = after;
            }
        }
    }
    bytes.extend_from_slice(rest.as_bytes());
    String::from_utf8_lossy(&bytes).into_owned()
}

/// RFC 3339, in UTC, with microseconds.
fn timestamp(since_1970: Duration) -> String {
    let seconds = since_1970.as_secs();
    let (year, month, day) = date(seconds / DAY);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let micros = since_1970.as_micros() % u128::from(MICROS);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z")
}

/// Year, month and day, `days` after 1970-01-01, in the Gregorian calendar: years begin in March,
/// so that the leap day is the last one.
fn date(days: u64) -> (u64, u64, u64) {
    const DAYS_OF_400_YEARS: u64 = 146_097;
    const FROM_YEAR_0: u64 = 719_468;
    let days = days + FROM_YEAR_0;
    let (era, day) = (days / DAYS_OF_400_YEARS, days % DAYS_OF_400_YEARS);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * month + 2) / 5 + 1;
    let (month, next_year) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (era * 400 + year + next_year, month, day_of_month)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line(record: &str) -> Value {
        let text = Record::parse(record).unwrap().line(Duration::from_secs(1_700_000_000));
        assert!(text.ends_with("}\n") && text.matches('\n').count() == 1, "{text:?}");
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn kernel_record_has_level_time_and_subsystem() {
        let line = line("6,339,5140900,-;NET: Registered family\n SUBSYSTEM=net\n");
        assert_eq!(line["level"], "info");
        assert_eq!(line["target"], "kernel");
        assert_eq!(line["subsystem"], "NET");
        assert_eq!(line["message"], "Registered family");
        assert_eq!(line["time"], "2023-11-14T22:13:25.140900Z");
    }

    #[test]
    fn record_of_the_agent_has_its_fields_and_none_that_lies() {
        let line = line(
            "15,1,5,-;husk-agent: containers: created {\"container\":\"web\",\"level\":\"x\"}\n",
        );
        assert_eq!(line["target"], "agent");
        assert_eq!(line["subsystem"], "containers");
        assert_eq!(line["message"], "created");
        assert_eq!(line["container"], "web");
        assert_eq!(line["level"], "debug");
    }

    #[test]
    fn escapes_of_the_kernel_are_undone() {
        assert_eq!(line("3,1,5,-;a\\x09b\\x5cx \"q\"")["message"], "a\tb\\x \"q\"");
        assert_eq!(line("3,1,5,-;a\\xzz\\x")["message"], "a\\xzz\\x");
    }

    #[test]
    fn dates_are_right_at_leap_days() {
        let day = |days| date(days);
        assert_eq!(day(0), (1970, 1, 1));
        assert_eq!(day(11_016), (2000, 2, 29));
        assert_eq!(day(19_782), (2024, 2, 29));
        assert_eq!(day(19_783), (2024, 3, 1));
        assert_eq!(day(47_540), (2100, 2, 28));
        assert_eq!(day(47_541), (2100, 3, 1));
    }

    proptest! {
        #[test]
        fn any_record_is_one_line_or_none(text in "[0-9]{0,3},[0-9]{0,4},[0-9]{0,9},.;\\PC{0,80}") {
            if let Some(record) = Record::parse(&text) {
                let line = record.line(Duration::ZERO);
                prop_assert_eq!(line.matches('\n').count(), 1);
                prop_assert!(serde_json::from_str::<Value>(&line).is_ok());
            }
        }
    }
}
