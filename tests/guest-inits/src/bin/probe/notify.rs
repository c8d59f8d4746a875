//! Who decides about another container's system calls: seccomp_unotify(2).
#![allow(unsafe_code)]

use std::{
    io::{IoSliceMut, Read as _},
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
        unix::net::{UnixListener, UnixStream},
    },
};

use nix::{
    errno::Errno,
    libc,
    sys::socket::{ControlMessageOwned, MsgFlags, recvmsg},
};

/// `struct seccomp_notif`.
#[repr(C)]
#[derive(Default)]
struct Notification {
    id: u64,
    pid: u32,
    flags: u32,
    number: i32,
    arch: u32,
    address: u64,
    args: [u64; 6],
}

/// `struct seccomp_notif_resp`.
#[repr(C)]
struct Response {
    id: u64,
    value: i64,
    error: i32,
    flags: u32,
}

/// `notify SOCKET COUNT...`: takes a listener for each count, one after the other, prints what
/// comes with it, and answers so many calls: with 4242 for getppid, and with EADDRINUSE for any
/// other.
pub fn decide(args: &[&str]) -> Result<String, String> {
    let [path, counts @ ..] = args else { return Err("notify SOCKET COUNT...".to_owned()) };
    let socket = UnixListener::bind(path).map_err(|error| format!("bind {path}: {error}"))?;
    println!("listening");
    let mut listeners = Vec::new();
    for count in counts {
        let count: usize = count.parse().map_err(|_| "COUNT is no number")?;
        let (stream, _) = socket.accept().map_err(|error| format!("accept: {error}"))?;
        let (state, listener) = receive(stream)?;
        println!("{state}");
        for _ in 0..count {
            answer(&listener)?;
        }
        // While it is open, its process lives on.
        listeners.push(listener);
    }
    Ok("done".to_owned())
}

fn receive(mut stream: UnixStream) -> Result<(String, OwnedFd), String> {
    let mut buffer = vec![0; 4096];
    let mut space = nix::cmsg_space!([RawFd; 1]);
    let (len, listener) = {
        let mut slices = [IoSliceMut::new(&mut buffer)];
        let message =
            recvmsg::<()>(stream.as_raw_fd(), &mut slices, Some(&mut space), MsgFlags::empty())
                .map_err(|errno| format!("recvmsg: {errno}"))?;
        let rights = message.cmsgs().map_err(|errno| format!("cmsgs: {errno}"))?.find_map(|one| {
            if let ControlMessageOwned::ScmRights(fds) = one { fds.first().copied() } else { None }
        });
        (message.bytes, rights.ok_or("no descriptor came")?)
    };
    buffer.truncate(len);
    stream.read_to_end(&mut buffer).map_err(|error| format!("read: {error}"))?;
    // SAFETY: the kernel has just made this descriptor for us.
    let listener = unsafe { OwnedFd::from_raw_fd(listener) };
    Ok((String::from_utf8_lossy(&buffer).into_owned(), listener))
}

fn answer(listener: &OwnedFd) -> Result<(), String> {
    let mut notification = Notification::default();
    // SAFETY: the structure has the size that the request's number says, and is zero as it must be.
    let got = unsafe {
        libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut notification)
    };
    Errno::result(got).map_err(|errno| format!("receive: {errno}"))?;
    // SAFETY: the request reads one number of eight bytes.
    let valid = unsafe {
        libc::ioctl(
            listener.as_raw_fd(),
            libc::SECCOMP_IOCTL_NOTIF_ID_VALID,
            &raw const notification.id,
        )
    };
    Errno::result(valid).map_err(|errno| format!("ask: {errno}"))?;
    let (value, error) = match i64::from(notification.number) {
        libc::SYS_getppid => (4242, 0),
        _ => (0, -libc::EADDRINUSE),
    };
    let response = Response { id: notification.id, value, error, flags: 0 };
    // SAFETY: the structure has the size that the request's number says.
    let sent = unsafe {
        libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND, &raw const response)
    };
    Errno::result(sent).map(drop).map_err(|errno| format!("send: {errno}"))
}
