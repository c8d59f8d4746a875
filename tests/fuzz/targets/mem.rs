//! The queue of the device of memory that comes and goes.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| husk_vmm::input::mem(bytes));
