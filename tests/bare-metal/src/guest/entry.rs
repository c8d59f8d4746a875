//! The entry code, which is assembly.

#![allow(unsafe_code)]

core::arch::global_asm!(include_str!("entry.s"));
