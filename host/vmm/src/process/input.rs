//! Reads the configuration from a pipe: whole, and bounded. Judges nothing of it.

use std::io::{self, Read};

use crate::config::Config;

/// More is no configuration.
pub const MAX_CONFIG_BYTES: u64 = 1 << 20;

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// Of read(2).
    #[error("read the configuration")]
    Read(#[source] io::Error),
    /// Nobody wrote one.
    #[error("read the configuration: the pipe closed before anything came")]
    Empty,
    /// Endless.
    #[error("read the configuration: more than {MAX_CONFIG_BYTES} bytes")]
    TooLong,
    /// Not a configuration, or the beginning of one.
    #[error("read the configuration")]
    Garbage(#[source] serde_json::Error),
}

/// Reads up to the end of `source`.
///
/// # Errors
/// [`InputError`].
pub fn read(source: impl Read) -> Result<Config, InputError> {
    let mut text = Vec::new();
    source.take(MAX_CONFIG_BYTES + 1).read_to_end(&mut text).map_err(InputError::Read)?;
    if text.is_empty() {
        return Err(InputError::Empty);
    }
    if text.len() as u64 > MAX_CONFIG_BYTES {
        return Err(InputError::TooLong);
    }
    serde_json::from_slice(&text).map_err(InputError::Garbage)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: &str =
        r#"{"kvm":3,"control":4,"kernel":5,"vcpus":{"online":1,"max":1},"memory":{"mib":32}}"#;

    #[test]
    fn configuration_is_read_whole() {
        assert_eq!(read(LEAST.as_bytes()).unwrap().memory.mib, 32);
        let padded = format!("{LEAST}{}", " ".repeat(100_000));
        assert!(read(padded.as_bytes()).is_ok());
    }

    #[test]
    fn pipe_that_closes_early_is_told() {
        assert!(matches!(read(&b""[..]), Err(InputError::Empty)));
        for len in 1..LEAST.len() {
            assert!(matches!(read(&LEAST.as_bytes()[..len]), Err(InputError::Garbage(_))), "{len}");
        }
    }

    #[test]
    fn garbage_and_endless_text_are_refused() {
        for garbage in [&b"\0\0"[..], b"[]", b"null", b"{}", &[b'['; 100_000]] {
            assert!(matches!(read(garbage), Err(InputError::Garbage(_))));
        }
        let endless = read(io::repeat(b' '));
        assert!(matches!(endless, Err(InputError::TooLong)));
    }
}
