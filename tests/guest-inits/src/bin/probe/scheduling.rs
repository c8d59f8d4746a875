//! When and where this process runs: sched_getattr(2), ioprio_get(2), sched_getaffinity(2),
//! personality(2).
#![allow(unsafe_code)]

use nix::{errno::Errno, libc};

/// Of `struct sched_attr`: its first version is enough, in words of four bytes.
const ATTRIBUTES_WORDS: usize = 12;

/// `scheduling`: policy, flags, nice, priority, runtime, deadline and period; then class and level
/// of input and output; then the CPUs as bits; then the personality.
pub fn show(_: &[&str]) -> Result<String, String> {
    let mut words = [0_u32; ATTRIBUTES_WORDS];
    let size = size_of_val(&words);
    // SAFETY: the kernel writes at most the size it is given.
    let got = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, words.as_mut_ptr(), size, 0) };
    Errno::result(got).map_err(|errno| format!("sched_getattr: {errno}"))?;
    let wide = |index: usize| u64::from(words[index]) | u64::from(words[index + 1]) << 32;
    // SAFETY: two numbers by value.
    let io = unsafe { libc::syscall(libc::SYS_ioprio_get, 1, 0) };
    let io = Errno::result(io).map_err(|errno| format!("ioprio_get: {errno}"))?;
    let mut cpus = [0_u64; 16];
    let size = size_of_val(&cpus);
    // SAFETY: the kernel writes at most the size it is given.
    let got = unsafe { libc::syscall(libc::SYS_sched_getaffinity, 0, size, cpus.as_mut_ptr()) };
    Errno::result(got).map_err(|errno| format!("sched_getaffinity: {errno}"))?;
    // SAFETY: this value asks for the present one.
    let persona = unsafe { libc::personality(0xffff_ffff) };
    Ok(format!(
        "policy {} flags {} nice {} priority {} runtime {} deadline {} period {}\nio {} {}\ncpus {:x}\npersonality {persona:x}",
        words[1],
        wide(2),
        words[4].cast_signed(),
        words[5],
        wide(6),
        wide(8),
        wide(10),
        io >> 13,
        io & 7,
        cpus[0],
    ))
}
