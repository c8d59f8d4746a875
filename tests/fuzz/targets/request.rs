//! The messages of every call.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| husk_agent::input::request(bytes));
