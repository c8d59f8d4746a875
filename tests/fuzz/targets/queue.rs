//! Chains of a hostile guest, and their bytes.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| husk_vmm::input::queue(bytes));
