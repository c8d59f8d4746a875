//! `husk.*` on the kernel's command line, read once: docs/guest.md. What is not known is refused: a
//! guest that ignores a wish of its owner's is worse than one that does not come up.

use std::fs;

use super::BootError;
use crate::{
    guest::{GuestError, Sysctl, set_hostname},
    log::{self, Level},
};

const COMMAND_LINE: &str = "/proc/cmdline";
const PREFIX: &str = "husk.";

/// An option that cannot be honoured.
#[derive(Debug, thiserror::Error)]
pub enum OptionError {
    /// No such option.
    #[error("{0}: there is no such option")]
    Unknown(String),
    /// The value makes no sense.
    #[error("{name}={value:?}: {reason}")]
    Value {
        /// The option.
        name: String,
        /// As given.
        value: String,
        /// What would make sense.
        reason: &'static str,
    },
    /// The guest cannot be as it is asked to be.
    #[error(transparent)]
    Guest(#[from] GuestError),
}

/// What the guest's owner wishes.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Options {
    log: Option<Level>,
    /// Whether the debug console listens.
    pub console: bool,
    hostname: Option<String>,
    sysctls: Vec<Sysctl>,
}

impl Options {
    /// Reads the command line.
    ///
    /// # Errors
    /// [`BootError::Option`].
    pub fn read() -> Result<Self, BootError> {
        let line = fs::read_to_string(COMMAND_LINE).map_err(BootError::CommandLine)?;
        Self::parse(&line).map_err(BootError::Option)
    }

    fn parse(line: &str) -> Result<Self, OptionError> {
        let mut options = Self::default();
        for word in words(line) {
            let Some(name) = word.strip_prefix(PREFIX) else { continue };
            let (name, value) = name.split_once('=').unwrap_or((name, ""));
            options.set(name, value)?;
        }
        Ok(options)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), OptionError> {
        let no_value = |reason| OptionError::Value {
            name: format!("{PREFIX}{name}"),
            value: value.to_owned(),
            reason,
        };
        match name {
            "log" => {
                let level =
                    value.parse().map_err(|()| no_value("is none of error, info, debug"))?;
                self.log = Some(level);
            }
            "console" => {
                self.console = match value {
                    "0" => false,
                    "1" => true,
                    _ => return Err(no_value("is neither 0 nor 1")),
                };
            }
            "hostname" => self.hostname = Some(value.to_owned()),
            _ => match name.strip_prefix("sysctl.") {
                Some(name) => self.sysctls.push(Sysctl::new(name, value)?),
                None => return Err(OptionError::Unknown(format!("{PREFIX}{name}"))),
            },
        }
        Ok(())
    }

    /// Makes the guest so. Blocks.
    ///
    /// # Errors
    /// [`BootError::Option`].
    pub fn apply(&self) -> Result<(), BootError> {
        if let Some(level) = self.log {
            log::set_level(level);
        }
        let apply = || {
            self.hostname.as_deref().map_or(Ok(()), set_hostname)?;
            self.sysctls.iter().try_for_each(Sysctl::apply)
        };
        apply().map_err(OptionError::from).map_err(BootError::Option)
    }
}

/// Words as the kernel separates them: what is in double quotes is one, and the quotes go.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for c in line.chars() {
        match c {
            '"' => quoted = !quoted,
            c if c.is_ascii_whitespace() && !quoted => words.push(String::new()),
            c => words.last_mut().expect("one word is always there").push(c),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn options_are_taken_out_of_the_kernels_own() {
        let line = "console=ttyS0 husk.log=debug quiet husk.console=1 husk.hostname=box \
                    husk.sysctl.vm.swappiness=10 \"husk.sysctl.kernel.core_pattern=a b\"\n";
        let options = Options::parse(line).unwrap();
        assert_eq!(options.log, Some(Level::Debug));
        assert!(options.console);
        assert_eq!(options.hostname.as_deref(), Some("box"));
        let sysctl = |name, value| Sysctl::new(name, value).unwrap();
        let expected = [sysctl("vm.swappiness", "10"), sysctl("kernel.core_pattern", "a b")];
        assert_eq!(options.sysctls, expected);
        assert_eq!(Options::parse("quiet console=hvc0").unwrap(), Options::default());
    }

    #[test]
    fn what_is_not_known_is_refused_by_name() {
        for (line, words) in [
            ("husk.nonsense=1", "husk.nonsense: there is no such option"),
            ("husk.log=loud", "husk.log=\"loud\""),
            ("husk.console", "neither 0 nor 1"),
            ("husk.sysctl.vm=1", "is no name"),
            ("husk.", "there is no such option"),
        ] {
            let error = Options::parse(line).unwrap_err().to_string();
            assert!(error.contains(words), "{line}: {error}");
        }
    }

    proptest! {
        #[test]
        fn no_line_is_a_panic(line in ".{0,200}") {
            let _ = Options::parse(&line);
        }
    }
}
