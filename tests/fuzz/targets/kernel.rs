//! Files that are said to be kernels.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| husk_vmm::input::kernel(bytes));
