//! The registers of the transport.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| husk_vmm::input::registers(bytes));
