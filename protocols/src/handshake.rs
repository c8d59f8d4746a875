//! The agent's first words on the connection that it opens to [`ANNOUNCE_PORT`]. After them the
//! same connection carries ttrpc, with the agent as the server.
//!
//! ```text
//! agent --Hello--> host        20 bytes, then `version_len` bytes of UTF-8
//! ```
//!
//! The host does not answer: it either speaks ttrpc next or closes.
//!
//! [`ANNOUNCE_PORT`]: crate::port::ANNOUNCE_PORT

use std::io::{self, Read, Write};

use crate::PROTOCOL_VERSION;

const MAGIC: [u8; 4] = *b"HUSK";
const FIXED_LEN: usize = 20;
const MAX_VERSION_LEN: usize = 64;

/// What the agent says of itself at boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// [`PROTOCOL_VERSION`] of the agent.
    pub protocol: u32,
    /// Microseconds between the guest kernel's start and the agent's `main`.
    pub boot_us: u32,
    /// Microseconds between the agent's `main` and this hello.
    pub agent_us: u32,
    /// Release of the agent, for messages.
    pub agent_version: String,
}

/// Why a [`Hello`] was refused.
#[derive(Debug, thiserror::Error)]
pub enum HelloError {
    /// The connection ended or failed.
    #[error("read the agent's hello")]
    Io(#[from] io::Error),
    /// The peer is not an agent.
    #[error("the guest did not speak as a husk agent")]
    NotAnAgent,
    /// The agent is of another release.
    #[error(
        "the guest agent {agent_version} speaks protocol {agent}, this husk speaks {host} \
         (rebuild the guest image with make rootfs)"
    )]
    Version {
        /// Protocol of the agent.
        agent: u32,
        /// Protocol of this host.
        host: u32,
        /// Release of the agent.
        agent_version: String,
    },
}

impl Hello {
    /// The greeting of an agent of this build.
    #[must_use]
    pub fn new(agent_version: &str, boot_us: u32, agent_us: u32) -> Self {
        let agent_version = agent_version.to_owned();
        Self { protocol: PROTOCOL_VERSION, boot_us, agent_us, agent_version }
    }

    /// Writes the greeting in one call. Blocks as `writer` does.
    ///
    /// # Errors
    /// Those of `writer`; `InvalidInput` for a version of more than 64 bytes.
    pub fn write_to(&self, mut writer: impl Write) -> io::Result<()> {
        let version = self.agent_version.as_bytes();
        let len = u32::try_from(version.len())
            .ok()
            .filter(|&len| len as usize <= MAX_VERSION_LEN)
            .ok_or(io::ErrorKind::InvalidInput)?;
        let mut bytes = Vec::with_capacity(FIXED_LEN + version.len());
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&self.protocol.to_le_bytes());
        bytes.extend_from_slice(&self.boot_us.to_le_bytes());
        bytes.extend_from_slice(&self.agent_us.to_le_bytes());
        bytes.extend_from_slice(&len.to_le_bytes());
        bytes.extend_from_slice(version);
        writer.write_all(&bytes)
    }

    /// Reads a greeting and checks that this host can talk to who sent it. Blocks as `reader`
    /// does, and takes no byte beyond the greeting.
    ///
    /// # Errors
    /// [`HelloError`]: the guest is not trusted, so anything may arrive.
    pub fn read_from(mut reader: impl Read) -> Result<Self, HelloError> {
        let mut fixed = [0; FIXED_LEN];
        reader.read_exact(&mut fixed)?;
        let word = |index: usize| {
            let bytes = fixed[4 * index..4 * index + 4].try_into();
            u32::from_le_bytes(bytes.expect("five words of four bytes are there"))
        };
        let len = word(4) as usize;
        if fixed[..4] != MAGIC || len > MAX_VERSION_LEN {
            return Err(HelloError::NotAnAgent);
        }
        let mut version = vec![0; len];
        reader.read_exact(&mut version)?;
        let hello = Self {
            protocol: word(1),
            boot_us: word(2),
            agent_us: word(3),
            agent_version: String::from_utf8(version).map_err(|_| HelloError::NotAnAgent)?,
        };
        if hello.protocol != PROTOCOL_VERSION {
            return Err(HelloError::Version {
                agent: hello.protocol,
                host: PROTOCOL_VERSION,
                agent_version: hello.agent_version,
            });
        }
        Ok(hello)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes_of(hello: &Hello) -> Vec<u8> {
        let mut bytes = Vec::new();
        hello.write_to(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn hello_survives_the_wire_and_leaves_what_follows() {
        let hello = Hello::new("0.1.0", 1234, 56);
        let mut bytes = bytes_of(&hello);
        bytes.extend_from_slice(b"ttrpc");
        let mut reader = bytes.as_slice();
        assert_eq!(Hello::read_from(&mut reader).unwrap(), hello);
        assert_eq!(reader, b"ttrpc");
    }

    #[test]
    fn agent_of_another_version_is_refused_with_both_versions() {
        let hello = Hello { protocol: 77, ..Hello::new("9.9.9", 0, 0) };
        let error = Hello::read_from(bytes_of(&hello).as_slice()).unwrap_err().to_string();
        assert!(error.contains("77") && error.contains("9.9.9"), "{error}");
        assert!(error.contains(&format!("this husk speaks {PROTOCOL_VERSION}")), "{error}");
    }

    #[test]
    fn hostile_hello_is_refused_without_a_large_allocation() {
        let mut bytes = bytes_of(&Hello::new("0.1.0", 0, 0));
        bytes[16..20].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(Hello::read_from(bytes.as_slice()), Err(HelloError::NotAnAgent)));
        assert!(matches!(
            Hello::read_from(&b"HTTP/1.1 200 OK, sort of"[..]),
            Err(HelloError::NotAnAgent)
        ));
    }
}
