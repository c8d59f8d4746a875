//! `config.json`, and what is planned from it.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| husk_agent::input::spec(bytes));
