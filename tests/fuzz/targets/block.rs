//! Requests of a hostile guest to a disk.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| husk_vmm::input::block(bytes));
