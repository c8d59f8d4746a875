//! `process` of a spec, for an exec.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| husk_agent::input::process(bytes));
