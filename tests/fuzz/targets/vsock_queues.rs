//! The queues of vsock.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| husk_vmm::input::vsock_queues(bytes));
