//! Stdio streams: each one is a vsock connection of its own, opened by the host to
//! [`STREAM_PORT`](crate::port::STREAM_PORT).
//!
//! The host picks a random, never reused [`StreamToken`], connects, sends its eight bytes
//! (little-endian), and names the token in `Create` or `Exec`. A token that is opened twice is
//! closed; one that nobody claims within [`CLAIM_DEADLINE`] is closed too.
//!
//! * stdin: host to guest. The host's half-close is the process's end of input.
//! * stdout, stderr: guest to host. The guest closes after the last byte.
//! * terminal: both directions on the stdout token.

use std::time::Duration;

/// How long the agent keeps a stream that no request has named, and a request waits for one that
/// has not arrived. Many at once take long in a translated guest on a busy machine.
pub const CLAIM_DEADLINE: Duration = Duration::from_secs(30);

/// Names a stream between the connection and the request that claims it. Never 0 on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StreamToken(std::num::NonZeroU64);

impl StreamToken {
    /// A token, or nothing for 0, which on the wire means "no stream".
    #[must_use]
    pub fn new(token: u64) -> Option<Self> {
        std::num::NonZeroU64::new(token).map(Self)
    }

    /// The number as `Streams` carries it.
    #[must_use]
    pub fn get(self) -> u64 {
        self.0.get()
    }

    /// The first bytes on the stream's connection.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 8] {
        self.get().to_le_bytes()
    }
}
