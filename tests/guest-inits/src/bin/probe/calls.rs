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

/// `call NAME ARGUMENT...`, several of them with a `+` between: `ok` and the result, or the errno.
/// Null pointers only: a case is about whether the call is made.
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

/// `call32 NUMBER [ARGUMENT]`: the same by the way of programs of 32 bits.
pub fn make_32(args: &[&str]) -> Result<String, String> {
    let mut words = args.iter().map(|word| number(word)).collect::<Result<Vec<_>, _>>()?;
    words.resize(2, 0);
    let [nr, first] = words[..] else { return Err("too many".to_owned()) };
    let mut result = nr;
    // SAFETY: the kernel takes its arguments from registers and changes none but the result's; rbx,
    // which the compiler keeps for itself, is put back.
    unsafe {
        std::arch::asm!(
            "xchg rbx, {first}", "int 0x80", "xchg rbx, {first}",
            first = inout(reg) first => _,
            inout("rax") result,
            in("rcx") 0, in("rdx") 0, in("rsi") 0, in("rdi") 0,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
        );
    }
    // The low half is what such a program gets.
    let [low @ .., _, _, _, _] = result.to_le_bytes();
    Ok(match i32::from_le_bytes(low) {
        errno @ -4095..=-1 => format!("{:?}", Errno::from_raw(-errno)),
        _ => "ok".to_owned(),
    })
}
