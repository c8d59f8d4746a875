//! The queue of virtio-mem.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| husk_vmm::input::mem(bytes));
