//! End-to-end harness.

pub mod agent_bed;
pub mod busybox_image;
