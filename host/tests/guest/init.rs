//! PID 1 of the guest in the tests of the hypervisor: announces itself and serves small jobs over
//! vsock. Built by the tests with rustc alone, so without any package.
//!
//! ```text
//! connect to host port 1024: "up"      at boot
//! accept on port 1025: one byte that names the job, then the job's own bytes
//! ```

use std::ffi::{CStr, c_char, c_int, c_ulong, c_void};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd};

const AF_VSOCK: c_int = 40;
const SOCK_STREAM: c_int = 1;
const SHUT_WR: c_int = 1;
const REBOOT_RESTART: c_int = 0x0123_4567;
const ANY_CID: u32 = u32::MAX;
const HOST_CID: u32 = 2;

/// struct sockaddr_vm of vsock(7).
#[repr(C)]
struct VsockAddress {
    family: u16,
    reserved: u16,
    port: u32,
    cid: u32,
    zero: [u8; 4],
}

impl VsockAddress {
    const LEN: u32 = size_of::<Self>() as u32;

    fn new(cid: u32, port: u32) -> Self {
        Self { family: AF_VSOCK as u16, reserved: 0, port, cid, zero: [0; 4] }
    }
}

unsafe extern "C" {
    fn socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int;
    fn connect(fd: c_int, address: *const VsockAddress, len: u32) -> c_int;
    fn bind(fd: c_int, address: *const VsockAddress, len: u32) -> c_int;
    fn listen(fd: c_int, backlog: c_int) -> c_int;
    fn accept(fd: c_int, address: *mut c_void, len: *mut u32) -> c_int;
    fn shutdown(fd: c_int, how: c_int) -> c_int;
    fn reboot(command: c_int) -> c_int;
    fn mount(
        source: *const c_char,
        target: *const c_char,
        kind: *const c_char,
        flags: c_ulong,
        data: *const c_void,
    ) -> c_int;
}

fn vsock() -> File {
    // SAFETY: no pointers.
    let fd = unsafe { socket(AF_VSOCK, SOCK_STREAM, 0) };
    assert!(fd >= 0, "no vsock in this kernel");
    // SAFETY: a new descriptor that nobody else owns.
    unsafe { File::from_raw_fd(fd) }
}

fn connect_to_host(port: u32) -> std::io::Result<File> {
    let stream = vsock();
    let address = VsockAddress::new(HOST_CID, port);
    // SAFETY: the address lives through the call and has the length given.
    match unsafe { connect(stream.as_raw_fd(), &raw const address, VsockAddress::LEN) } {
        0 => Ok(stream),
        _ => Err(std::io::Error::last_os_error()),
    }
}

fn end_output(stream: &File) {
    // SAFETY: no pointers.
    unsafe { shutdown(stream.as_raw_fd(), SHUT_WR) };
}

fn mount_pseudo(kind: &CStr, target: &CStr) {
    let path = target.to_str().expect("an ASCII literal");
    std::fs::create_dir_all(path).expect("the initramfs is writable");
    // SAFETY: C strings that live through the call; no data.
    let result =
        unsafe { mount(kind.as_ptr(), target.as_ptr(), kind.as_ptr(), 0, std::ptr::null()) };
    assert_eq!(result, 0, "mount {path}");
}

/// Everything back, and the end of output after the end of input.
fn echo(mut stream: File) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..count]).is_err() {
            return;
        }
    }
    end_output(&stream);
    // The host closes when it has read all.
    let _ = stream.read(&mut buffer);
}

/// Reads to the end, then answers with the count.
fn count(mut stream: File) {
    let mut buffer = vec![0; 64 << 10];
    let mut total = 0;
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        total += count;
    }
    let _ = write!(stream, "{total}");
}

/// Writes until that fails, then tells the error on a connection to the port that it was given.
fn flood(mut stream: File) {
    let mut port = [0; 4];
    stream.read_exact(&mut port).expect("the host sends a port");
    let buffer = vec![0; 64 << 10];
    let error = loop {
        if let Err(error) = stream.write_all(&buffer) {
            break error;
        }
    };
    let mut report = connect_to_host(u32::from_le_bytes(port)).expect("the host listens");
    let _ = write!(report, "{}", error.raw_os_error().unwrap_or(0));
}

/// Tries a port where the host does not listen.
fn refused(mut stream: File) {
    let answer = match connect_to_host(9999) {
        Ok(_) => 0,
        Err(error) => error.raw_os_error().unwrap_or(-1),
    };
    let _ = write!(stream, "{answer}");
}

/// `serial:read-only:sectors` of each disk.
fn disks(mut stream: File) {
    mount_pseudo(c"sysfs", c"/sys");
    let mut lines = Vec::new();
    for block in std::fs::read_dir("/sys/block").expect("sysfs is mounted").flatten() {
        let read = |name| std::fs::read_to_string(block.path().join(name)).unwrap_or_default();
        let (serial, read_only, size) = (read("serial"), read("ro"), read("size"));
        if !serial.is_empty() {
            lines.push(format!("{}:{}:{}", serial.trim(), read_only.trim(), size.trim()));
        }
    }
    lines.sort();
    let _ = stream.write_all(lines.join(" ").as_bytes());
}

/// Ten sleeps of 10 ms, in microseconds of the guest's clock.
fn clock(mut stream: File) {
    let start = std::time::Instant::now();
    for _ in 0..10 {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let _ = write!(stream, "{}", start.elapsed().as_micros());
}

fn power_off() -> ! {
    // SAFETY: no pointers; nothing is mounted that could lose data.
    unsafe { reboot(REBOOT_RESTART) };
    unreachable!("PID 1 may reboot");
}

fn serve(mut stream: File) {
    let mut job = [0];
    if stream.read_exact(&mut job).is_err() {
        return;
    }
    match job[0] {
        b'E' => echo(stream),
        b'N' => count(stream),
        b'W' => flood(stream),
        b'R' => refused(stream),
        b'D' => disks(stream),
        b'C' => clock(stream),
        b'P' => power_off(),
        b'!' => std::process::abort(),
        _ => {}
    }
}

fn main() {
    let listener = vsock();
    let address = VsockAddress::new(ANY_CID, 1025);
    // SAFETY: the address lives through the call and has the length given.
    let bound = unsafe { bind(listener.as_raw_fd(), &raw const address, VsockAddress::LEN) };
    // SAFETY: no pointers.
    let listening = unsafe { listen(listener.as_raw_fd(), 256) };
    assert_eq!((bound, listening), (0, 0), "listen on vsock");
    let mut announce = connect_to_host(1024).expect("the host listens");
    announce.write_all(b"up").expect("the host reads");
    drop(announce);
    loop {
        let no_address = std::ptr::null_mut();
        // SAFETY: null pointers mean that the peer's address is not wanted.
        let fd = unsafe { accept(listener.as_raw_fd(), no_address, std::ptr::null_mut()) };
        assert!(fd >= 0, "accept");
        // SAFETY: a new descriptor that nobody else owns.
        let stream = unsafe { File::from_raw_fd(fd) };
        std::thread::Builder::new()
            .stack_size(128 << 10)
            .spawn(move || serve(stream))
            .expect("the guest has memory for a thread");
    }
}
