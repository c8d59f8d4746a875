//! What only an attacker does: names that change places, keys, connections to the guest's own
//! ports.
#![allow(unsafe_code)]

use std::{
    ffi::CString,
    fs::File,
    io::{Read, Write},
    os::fd::AsRawFd,
};

use nix::{
    errno::Errno,
    libc,
    sys::socket::{AddressFamily, SockFlag, SockType, VsockAddr, bind, connect, socket},
};

/// linux/keyctl.h.
const KEYCTL_SEARCH: libc::c_long = 10;
const SESSION_KEYRING: libc::c_long = -3;
const USER_KEYRING: libc::c_long = -4;

/// `exchange ONE OTHER`: the two change places without end.
pub fn exchange(args: &[&str]) -> Result<String, String> {
    let [one, other] = args else { return Err(format!("{args:?}: two names")) };
    let name = |name: &str| CString::new(name).map_err(|error| error.to_string());
    let (one, other) = (name(one)?, name(other)?);
    println!("ready");
    loop {
        // SAFETY: two strings with an end, and plain numbers.
        let done = unsafe {
            libc::syscall(
                libc::SYS_renameat2,
                libc::AT_FDCWD,
                one.as_ptr(),
                libc::AT_FDCWD,
                other.as_ptr(),
                libc::RENAME_EXCHANGE,
            )
        };
        Errno::result(done).map_err(|errno| errno.to_string())?;
    }
}

/// `key add RING NAME`, `key find RING NAME`: in the session's key ring or the user's. With `wait`
/// after it, stays.
pub fn key(args: &[&str]) -> Result<String, String> {
    let (call, ring, name) = match args {
        ["add", ring, name] | ["add", ring, name, "wait"] => (libc::SYS_add_key, ring, name),
        ["find", ring, name] => (libc::SYS_keyctl, ring, name),
        _ => return Err(format!("{args:?}: add or find, session or user, and a name")),
    };
    let ring = if *ring == "user" { USER_KEYRING } else { SESSION_KEYRING };
    let name = CString::new(*name).map_err(|error| error.to_string())?;
    let secret = *b"secret";
    let key = if call == libc::SYS_add_key {
        // SAFETY: two strings with an end, and the bytes of `secret` with their number.
        unsafe {
            libc::syscall(
                call,
                c"user".as_ptr(),
                name.as_ptr(),
                secret.as_ptr(),
                secret.len(),
                ring,
            )
        }
    } else {
        // SAFETY: two strings with an end, and plain numbers.
        unsafe { libc::syscall(call, KEYCTL_SEARCH, ring, c"user".as_ptr(), name.as_ptr(), 0) }
    };
    Errno::result(key).map_err(|errno| format!("{errno:?}"))?;
    if args.last() == Some(&"wait") {
        println!("ready");
        loop {
            std::thread::sleep(std::time::Duration::from_secs(1000));
        }
    }
    Ok("there".to_owned())
}

/// `vsock FROM TO PORT TOKEN`: connects from one address to another (FROM 0: as it comes), says a
/// stream's token, and tells what is answered until the end.
pub fn vsock(args: &[&str]) -> Result<String, String> {
    let [from, to, port, token] = args else { return Err(format!("{args:?}: FROM TO PORT TOKEN")) };
    let number = |text: &str| text.parse::<u32>().map_err(|error| error.to_string());
    let token: u64 = token.parse().map_err(|error| format!("{error}"))?;
    let failed = |what: &'static str| move |errno: Errno| format!("{what}: {errno}");
    let socket = socket(AddressFamily::Vsock, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)
        .map_err(failed("socket"))?;
    if number(from)? != 0 {
        let any = u32::MAX;
        bind(socket.as_raw_fd(), &VsockAddr::new(number(from)?, any)).map_err(failed("bind"))?;
    }
    connect(socket.as_raw_fd(), &VsockAddr::new(number(to)?, number(port)?))
        .map_err(failed("connect"))?;
    let mut stream = File::from(socket);
    let mut answer = Vec::new();
    // One that is closed at once may say so here or there.
    let sent = stream.write_all(&token.to_le_bytes());
    let read = sent.and_then(|()| stream.read_to_end(&mut answer));
    let answer = String::from_utf8_lossy(&answer);
    match read {
        Err(error) if answer.is_empty() => Ok(format!("closed: {error}")),
        _ if answer.is_empty() => Ok("closed".to_owned()),
        _ => Ok(format!("answer: {answer}")),
    }
}
