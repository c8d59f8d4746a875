//! Packets of vsock, and what the host does between them.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| husk_vmm::input::vsock_packets(bytes));
