//! Writes the guest image: an initramfs with the agent as init, and a manifest.

fn main() {}
