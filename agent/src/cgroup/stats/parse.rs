//! The formats of those files. Pure. What cannot be read counts as zero: numbers for people must
//! not fail for a line that a later kernel writes in another way.

use super::{CpuStats, InterfaceStats, IoStats, MemoryEvents, Pressure, Stall, Traffic};

/// A file that is one number.
pub fn number(text: &str) -> u64 {
    text.trim().parse().unwrap_or_default()
}

/// A file that is one number or `max`.
pub fn limit(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// A file of lines with a name and a number.
pub fn table(text: &str) -> impl Iterator<Item = (&str, u64)> {
    text.lines().filter_map(|line| {
        let (name, value) = line.split_once(' ')?;
        Some((name, value.trim().parse().ok()?))
    })
}

/// The number behind a name.
pub fn entry(text: &str, name: &str) -> u64 {
    table(text).find_map(|(found, value)| (found == name).then_some(value)).unwrap_or_default()
}

pub fn cpu(text: &str) -> CpuStats {
    CpuStats {
        usage_us: entry(text, "usage_usec"),
        user_us: entry(text, "user_usec"),
        system_us: entry(text, "system_usec"),
        periods: entry(text, "nr_periods"),
        throttled_periods: entry(text, "nr_throttled"),
        throttled_us: entry(text, "throttled_usec"),
    }
}

pub fn memory_events(text: &str) -> MemoryEvents {
    MemoryEvents {
        low: entry(text, "low"),
        high: entry(text, "high"),
        max: entry(text, "max"),
        oom: entry(text, "oom"),
        oom_kill: entry(text, "oom_kill"),
    }
}

/// `254:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6`.
pub fn io(line: &str) -> Option<IoStats> {
    let mut words = line.split_whitespace();
    let (major, minor) = words.next()?.split_once(':')?;
    let mut stats =
        IoStats { major: major.parse().ok()?, minor: minor.parse().ok()?, ..IoStats::default() };
    for (name, value) in words.filter_map(|word| word.split_once('=')) {
        let slot = match name {
            "rbytes" => &mut stats.read_bytes,
            "wbytes" => &mut stats.written_bytes,
            "rios" => &mut stats.reads,
            "wios" => &mut stats.writes,
            "dbytes" => &mut stats.discarded_bytes,
            "dios" => &mut stats.discards,
            _ => continue,
        };
        *slot = value.parse().unwrap_or_default();
    }
    Some(stats)
}

/// `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`, and the same for `full`.
pub fn pressure(text: &str) -> Pressure {
    let stall = |kind: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(kind)).unwrap_or_default();
        let value = |name: &str| {
            line.split_whitespace().find_map(|word| word.strip_prefix(name)).unwrap_or_default()
        };
        let percent = |name: &str| value(name).parse().unwrap_or_default();
        Stall {
            last_10s_percent: percent("avg10="),
            last_60s_percent: percent("avg60="),
            last_300s_percent: percent("avg300="),
            total_us: value("total=").parse().unwrap_or_default(),
        }
    };
    Pressure { some: stall("some "), full: stall("full ") }
}

/// `  eth0: ` and sixteen numbers, eight of each direction; `None` for the two lines of headings.
pub fn interface(line: &str) -> Option<InterfaceStats> {
    let (name, numbers) = line.rsplit_once(':')?;
    let numbers: Vec<u64> =
        numbers.split_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
    let [
        bytes,
        packets,
        errors,
        dropped,
        _,
        _,
        _,
        _,
        out_bytes,
        out_packets,
        out_errors,
        out_dropped,
        ..,
    ] = numbers[..]
    else {
        return None;
    };
    Some(InterfaceStats {
        name: name.trim().to_owned(),
        received: Traffic { bytes, packets, errors, dropped },
        sent: Traffic {
            bytes: out_bytes,
            packets: out_packets,
            errors: out_errors,
            dropped: out_dropped,
        },
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn cpu_and_events_are_found_by_name() {
        let text = "usage_usec 30\nuser_usec 20\nsystem_usec 10\nnr_periods 5\nnr_throttled 2\n\
                    throttled_usec 99\nnr_bursts 0\n";
        let expected = CpuStats {
            usage_us: 30,
            user_us: 20,
            system_us: 10,
            periods: 5,
            throttled_periods: 2,
            throttled_us: 99,
        };
        assert_eq!(cpu(text), expected);
        let events = memory_events("low 1\nhigh 2\nmax 3\noom 4\noom_kill 5\noom_group_kill 6\n");
        let expected = MemoryEvents { low: 1, high: 2, max: 3, oom: 4, oom_kill: 5 };
        assert_eq!(events, expected);
    }

    #[test]
    fn devices_have_their_numbers() {
        let stats =
            io("254:16 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6 cost.usage=7").unwrap();
        assert_eq!((stats.major, stats.minor), (254, 16));
        assert_eq!((stats.read_bytes, stats.written_bytes), (1, 2));
        assert_eq!((stats.reads, stats.writes), (3, 4));
        assert_eq!((stats.discarded_bytes, stats.discards), (5, 6));
        // A device that has only been looked at.
        assert_eq!(io("7:0 ").unwrap().read_bytes, 0);
        assert_eq!(io(""), None);
    }

    #[test]
    fn pressure_without_full_has_some() {
        let pressure = pressure("some avg10=1.50 avg60=0.25 avg300=0.00 total=1234\n");
        assert!((pressure.some.last_10s_percent - 1.5).abs() < 1e-9);
        assert!((pressure.some.last_60s_percent - 0.25).abs() < 1e-9);
        assert_eq!((pressure.some.total_us, pressure.full.total_us), (1234, 0));
    }

    #[test]
    fn interfaces_are_read_and_headings_are_not() {
        let text = "Inter-|   Receive  |  Transmit\n face |bytes    packets |bytes\n    \
                    lo:     100       2    3    4    0     0          0         0      500 \
                    6    7    8    0     0       0          0\n";
        let all: Vec<_> = text.lines().filter_map(interface).collect();
        let expected = InterfaceStats {
            name: "lo".to_owned(),
            received: Traffic { bytes: 100, packets: 2, errors: 3, dropped: 4 },
            sent: Traffic { bytes: 500, packets: 6, errors: 7, dropped: 8 },
        };
        assert_eq!(all, [expected]);
    }

    proptest! {
        #[test]
        fn no_text_is_too_strange(text in "\\PC*") {
            cpu(&text);
            memory_events(&text);
            pressure(&text);
            for line in text.lines() {
                io(line);
                interface(line);
            }
        }
    }
}
