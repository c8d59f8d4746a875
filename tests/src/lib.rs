//! End-to-end harness.

pub mod busybox_image;
