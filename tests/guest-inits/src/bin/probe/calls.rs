//! Any system call by its number: syscall(2).
#![allow(unsafe_code)]

use nix::{errno::Errno, libc};

/// Numbers and other values that cases name.
const NAMES: [(&str, i64); 24] = [
    ("getpid", libc::SYS_getpid),
    ("getppid", libc::SYS_getppid),
    ("getuid", libc::SYS_getuid),
    ("getpriority", libc::SYS_getpriority),
    ("mkdir", libc::SYS_mkdir),
    ("mount", libc::SYS_mount),
    ("unshare", libc::SYS_unshare),
    ("bpf", libc::SYS_bpf),
    ("keyctl", libc::SYS_keyctl),
    ("add_key", libc::SYS_add_key),
    ("ptrace", libc::SYS_ptrace),
    ("clone3", libc::SYS_clone3),
    ("socket", libc::SYS_socket),
    ("personality", libc::SYS_personality),
    ("perf_event_open", libc::SYS_perf_event_open),
    ("io_uring_setup", libc::SYS_io_uring_setup),
    ("userfaultfd", libc::SYS_userfaultfd),
    ("kexec_load", libc::SYS_kexec_load),
    ("chroot", libc::SYS_chroot),
    ("lseek", libc::SYS_lseek),
    ("alarm", libc::SYS_alarm),
    ("x32-getpid", 0x4000_0000 | libc::SYS_getpid),
    ("future", 9999),
    ("sethostname", libc::SYS_sethostname),
];

fn number(text: &str) -> Result<i64, String> {
    if let Some((_, number)) = NAMES.iter().find(|(name, _)| *name == text) {
        return Ok(*number);
    }
    let parsed = match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).map(u64::cast_signed).ok(),
        None => text.parse().ok(),
    };
    parsed.ok_or_else(|| format!("{text}: no number"))
}

/// `call NAME ARGUMENT...`, several of them with a `+` between: `ok` and the result, or the errno. Null
/// pointers only: a case is about whether the call is made.
pub fn make(args: &[&str]) -> Result<String, String> {
    let mut said = Vec::new();
    for call in args.split(|word| *word == "+") {
        let mut words = call.iter().map(|word| number(word)).collect::<Result<Vec<_>, _>>()?;
        words.resize(7, 0);
        let [nr, a, b, c, d, e, f] = words[..] else { return Err("too many".to_owned()) };
        // SAFETY: cases pass numbers and null pointers, which the kernel checks.
        let result = unsafe { libc::syscall(nr, a, b, c, d, e, f) };
        said.push(match Errno::result(result) {
            Ok(_) if nr == libc::SYS_getpid => "ok".to_owned(),
            Ok(result) => format!("ok {result}"),
            Err(errno) => format!("{errno:?}"),
        });
    }
    Ok(said.join("\n"))
}
