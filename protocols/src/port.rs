//! vsock addresses of the two sides.

/// The host, as every guest sees it. virtio 1.2 §5.10.4.
pub const HOST_CID: u32 = 2;
/// The guest's own address. One VM, one vsock device: the number need not differ between VMs.
pub const GUEST_CID: u32 = 3;
/// The host listens here; the agent connects once at boot to announce itself.
pub const ANNOUNCE_PORT: u32 = 1024;
/// The agent listens here; the host connects once per stdio stream.
pub const STREAM_PORT: u32 = 1025;
/// The agent listens here when its debug console is on (`husk.console=1` on the kernel's command
/// line); nobody does otherwise.
pub const CONSOLE_PORT: u32 = 1026;
