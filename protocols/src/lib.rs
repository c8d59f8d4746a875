//! What host and guest say to each other: services, ids, ports, handshake, error kinds.
//! Shapes only: nothing here opens a socket or a file.

#[allow(missing_docs, clippy::all, clippy::pedantic, clippy::cast_possible_truncation)]
#[allow(clippy::cast_sign_loss, clippy::unwrap_used, clippy::too_many_lines)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/modules.rs"));
}

/// Messages of `proto/agent.proto`.
pub use generated::agent;
/// Services of `proto/agent.proto`: server traits and clients.
pub use generated::agent_ttrpc;

pub mod error;
pub mod handshake;
pub mod id;
pub mod port;
pub mod stream;

/// Version of everything in this crate that crosses the wire. Host and agent must agree exactly.
pub const PROTOCOL_VERSION: u32 = 1;
