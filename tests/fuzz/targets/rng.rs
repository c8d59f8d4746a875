//! The entropy device's queue.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| husk_vmm::input::rng(bytes));
