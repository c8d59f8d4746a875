//! The agent's log: lines in the kernel's, where they are in order with the kernel's own and take
//! bounded memory. Nothing that a container or a spec holds is written there, but ids.
//!
//! ```text
//! <6>husk-agent: SUBJECT: MESSAGE {"field":"value"}
//! ```

use std::{
    fs::OpenOptions,
    io::{self, Write},
    str::FromStr,
    sync::atomic::{AtomicU8, Ordering},
};

use nix::sys::stat::{Mode, SFlag, makedev, mknod};

const KMSG: &str = "/dev/kmsg";
/// Documentation/admin-guide/devices.txt, /dev/kmsg.
const KMSG_NUMBER: (u64, u64) = (1, 11);
/// What the agent's lines begin with.
pub const PREFIX: &str = "husk-agent: ";

/// How much a line matters: syslog(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// The console shows it too.
    Error = 3,
    /// Now and then.
    Info = 6,
    /// Each container.
    Debug = 7,
}

impl FromStr for Level {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "error" => Ok(Self::Error),
            "info" => Ok(Self::Info),
            "debug" => Ok(Self::Debug),
            _ => Err(()),
        }
    }
}

static LEVEL: AtomicU8 = AtomicU8::new(Level::Info as u8);

/// Sets what is written from now on.
pub fn set_level(level: Level) {
    LEVEL.store(level as u8, Ordering::Relaxed);
}

/// What everybody should see.
pub fn error(subject: &str, message: &str) {
    write(Level::Error, subject, message, &[]);
}

/// What happens once.
pub fn info(subject: &str, message: &str) {
    write(Level::Info, subject, message, &[]);
}

/// What happens to each container, with its ids.
pub fn debug(subject: &str, message: &str, fields: &[(&str, &str)]) {
    write(Level::Debug, subject, message, fields);
}

fn write(level: Level, subject: &str, message: &str, fields: &[(&str, &str)]) {
    let level = level as u8;
    if level > LEVEL.load(Ordering::Relaxed) {
        return;
    }
    let line = line(level, subject, message, fields);
    if append(&line).is_err() {
        // Before devtmpfs is mounted.
        let (major, minor) = KMSG_NUMBER;
        let _ = mknod(KMSG, SFlag::S_IFCHR, Mode::S_IWUSR, makedev(major, minor));
        // Nobody is left to be told when this fails too.
        let _ = append(&line);
    }
}

fn line(level: u8, subject: &str, message: &str, fields: &[(&str, &str)]) -> String {
    let mut line = format!("<{level}>{PREFIX}{subject}: {}", message.replace('\n', "; "));
    if !fields.is_empty() {
        let fields: serde_json::Map<_, _> =
            fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).into())).collect();
        line.push(' ');
        line.push_str(&serde_json::Value::Object(fields).to_string());
    }
    line.push('\n');
    line
}

/// One record for each write.
fn append(line: &str) -> io::Result<()> {
    OpenOptions::new().write(true).open(KMSG)?.write_all(line.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_one_line() {
        assert_eq!(line(3, "boot", "a\nb", &[]), "<3>husk-agent: boot: a; b\n");
        let text = line(7, "containers", "created", &[("container", "web-1")]);
        assert_eq!(text, "<7>husk-agent: containers: created {\"container\":\"web-1\"}\n");
    }
}
