//! What the end-to-end suites and the benches stand on: a private husk installation with guards
//! against leftovers, terminals, container images and guest images made in memory.
//!
//! Not a place for tests of one room: those stand beside its code.

pub mod agent_bed;
pub mod bare_bed;
pub mod bed;
pub mod busybox_image;
pub mod guest;
pub mod hypervisor;
pub mod image;
pub mod leftovers;
pub mod permit;
pub mod run;
pub mod terminal;
pub mod wait;

pub use bed::{BUSYBOX, Bed};
