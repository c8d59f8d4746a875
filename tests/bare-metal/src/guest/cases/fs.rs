//! The file system device: virtio 1.2 §5.11, and as much of FUSE as reads and writes a file.
//! Structures are those of Linux include/uapi/linux/fuse.h.

use super::Cases;
use super::mem::{ACK, Mem, PLUG, UNPLUG_ALL};
use crate::guest::memory::{self, PAGE};
use crate::guest::serial::say;
use crate::guest::virtio::{Buffer, Device, Queue, feature, kind, register, status};
use crate::guest::{clock, gate};

pub const CASES: Cases = &[
    ("fs-files", files),
    ("fs-read-only", read_only),
    ("fs-names", names),
    ("fs-before-ready", before_ready),
    ("fs-reset-in-flight", reset_in_flight),
    ("fs-memory", hot_plug_memory),
    ("fs-lost", lost),
    ("fs-unusable", unusable),
    ("fs-stuck", stuck),
];

/// The queue of urgent requests and the first of the others. virtio 1.2 §5.11.2.
const URGENT: u16 = 0;
const REQUESTS: u16 = 1;
/// Requests.
const LOOKUP: u32 = 1;
const OPEN: u32 = 14;
const READ: u32 = 15;
const WRITE: u32 = 16;
const RELEASE: u32 = 18;
const INIT: u32 = 26;
const CREATE: u32 = 35;
/// Bytes of the headers of a request and of an answer, of what LOOKUP tells, and of an open file.
const IN_HEADER: u32 = 40;
const OUT_HEADER: u32 = 16;
const ENTRY: u32 = 128;
const OPENED: u32 = 16;
/// The root of the file system.
const ROOT: u64 = 1;
/// errno(3), open(2).
const ENOENT: i32 = -2;
const EROFS: i32 = -30;
const O_RDWR: u32 = 2;
/// The host's file: `memory::pattern(HOST_LEN, HOST_SEED)`.
const HOST_NAME: &[u8] = b"from-host\0";
const HOST_LEN: u32 = 200_000;
const HOST_SEED: u64 = 11;
/// Ours.
const GUEST_NAME: &[u8] = b"from-guest\0";
const GUEST_LEN: u32 = 120_000;
const GUEST_SEED: u64 = 12;
/// At most so much by one request.
const PART: u32 = 64 << 10;
/// How long a failure may take to be told of: a server may take five seconds.
const TELL_MS: u64 = 30_000;

/// A mounted file system.
struct Fs {
    device: Device,
    queue: Queue,
    /// Headers, arguments, answers.
    page: u64,
    number: u64,
}

/// Where in the page what a request and its answer have is.
const ARGUMENTS: u64 = 0x100;
const ANSWER: u64 = 0x800;
const RESULT: u64 = 0x900;

impl Fs {
    /// Starts the device with these features, and says so to the server.
    #[track_caller]
    fn start(features: u64) -> Self {
        let mut fs = Self::activate(features);
        fs.init();
        fs
    }

    #[track_caller]
    fn activate(features: u64) -> Self {
        let device = Device::find(kind::FS);
        let features = device.negotiate(features);
        let _urgent = device.queue(URGENT, 16, features);
        let queue = device.queue(REQUESTS, 128, features);
        device.ready();
        Self { device, queue, page: memory::take(PAGE), number: 0 }
    }

    #[track_caller]
    fn init(&mut self) {
        let chain = self.init_chain();
        self.queue.ask(&chain);
        assert_eq!(self.answer(), Ok(()));
        assert_eq!(memory::read32(self.page + RESULT), 7, "version of FUSE");
    }

    fn init_chain(&mut self) -> [Buffer; 4] {
        self.arguments(&[7 | 31 << 32, PART.into()]);
        self.chain(INIT, 0, 16, 64)
    }

    fn arguments(&self, words: &[u64]) {
        for (at, word) in (0..).step_by(8).zip(words) {
            memory::write64(self.page + ARGUMENTS + at, *word);
        }
    }

    /// A request of `len` bytes of arguments that are there, and room for `result` bytes.
    fn chain(&mut self, request: u32, node: u64, len: u32, result: u32) -> [Buffer; 4] {
        self.number += 1;
        memory::fill(self.page, 0, IN_HEADER.into());
        memory::write32(self.page, IN_HEADER + len);
        memory::write32(self.page + 4, request);
        memory::write64(self.page + 8, self.number);
        memory::write64(self.page + 16, node);
        memory::fill(self.page + ANSWER, 0xff, OUT_HEADER.into());
        [
            Buffer::out(self.page, IN_HEADER),
            Buffer::out(self.page + ARGUMENTS, len),
            Buffer::fill(self.page + ANSWER, OUT_HEADER),
            Buffer::fill(self.page + RESULT, result),
        ]
    }

    /// What the server says of the last request: an error of errno(3) if it is no success.
    #[track_caller]
    fn answer(&self) -> Result<(), i32> {
        let at = self.page + ANSWER;
        assert_eq!(memory::read64(at + 8), self.number, "the answer to another request");
        match memory::read32(at + 4).cast_signed() {
            0 => Ok(()),
            error => Err(error),
        }
    }

    #[track_caller]
    fn call(&mut self, request: u32, node: u64, len: u32, result: u32) -> Result<(), i32> {
        let chain = self.chain(request, node, len, result);
        // Without room for a result, there is no such buffer.
        let used = if result == 0 { &chain[..3] } else { &chain[..] };
        self.queue.ask(used);
        self.answer()
    }

    /// A file's node and its size.
    #[track_caller]
    fn lookup(&mut self, name: &[u8]) -> Result<(u64, u64), i32> {
        memory::put(self.page + ARGUMENTS, name);
        self.call(LOOKUP, ROOT, len_of(name), ENTRY)?;
        // struct fuse_entry_out: the node at 0, the attributes at 40, the size at 8 of them.
        Ok((memory::read64(self.page + RESULT), memory::read64(self.page + RESULT + 48)))
    }

    #[track_caller]
    fn open(&mut self, node: u64, flags: u32) -> Result<u64, i32> {
        self.arguments(&[flags.into()]);
        self.call(OPEN, node, 8, OPENED)?;
        Ok(memory::read64(self.page + RESULT))
    }

    /// A new file's node and handle.
    #[track_caller]
    fn create(&mut self, name: &[u8]) -> Result<(u64, u64), i32> {
        // Flags, mode 0600, no umask.
        self.arguments(&[u64::from(O_RDWR) | 0o600 << 32, 0]);
        memory::put(self.page + ARGUMENTS + 16, name);
        self.call(CREATE, ROOT, 16 + len_of(name), ENTRY + OPENED)?;
        let result = self.page + RESULT;
        Ok((memory::read64(result), memory::read64(result + u64::from(ENTRY))))
    }

    /// struct fuse_read_in and fuse_write_in.
    fn range(&self, file: u64, offset: u32, len: u32) {
        self.arguments(&[file, offset.into(), len.into(), 0, 0]);
    }

    /// Reads to where `buffer` says: how many bytes came.
    #[track_caller]
    fn read(&mut self, node: u64, file: u64, offset: u32, buffer: u64, len: u32) -> u32 {
        self.range(file, offset, len);
        let [header, arguments, answer, _] = self.chain(READ, node, 40, 0);
        let used = self.queue.ask(&[header, arguments, answer, Buffer::fill(buffer, len)]);
        assert_eq!(self.answer(), Ok(()), "read {len} bytes at {offset}");
        let len = memory::read32(self.page + ANSWER);
        assert_eq!(len, used, "the answer's length is the chain's");
        len - OUT_HEADER
    }

    #[track_caller]
    fn write(&mut self, node: u64, file: u64, offset: u32, buffer: u64, len: u32) {
        self.range(file, offset, len);
        let [header, arguments, answer, result] = self.chain(WRITE, node, 40, 8);
        memory::write32(header.address, IN_HEADER + 40 + len);
        self.queue.ask(&[header, arguments, Buffer::out(buffer, len), answer, result]);
        assert_eq!(self.answer(), Ok(()), "write {len} bytes at {offset}");
        assert_eq!(memory::read32(self.page + RESULT), len, "bytes written");
    }

    /// All of the host's file to `buffer`, which has room for a part more.
    #[track_caller]
    fn read_whole(&mut self, node: u64, file: u64, buffer: u64) {
        let mut len = 0;
        loop {
            let count = self.read(node, file, len, buffer + u64::from(len), PART);
            if count == 0 {
                break;
            }
            len += count;
        }
        assert_eq!(len, HOST_LEN);
        memory::expect_pattern(buffer, HOST_LEN.into(), HOST_SEED);
    }

    #[track_caller]
    fn host_file(&mut self) -> (u64, u64) {
        let (node, size) = self.lookup(HOST_NAME).expect("the host's file is there");
        assert_eq!(size, HOST_LEN.into(), "its size");
        (node, self.open(node, 0).expect("it can be opened"))
    }

    #[track_caller]
    fn release(&mut self, node: u64, file: u64) {
        self.arguments(&[file, 0, 0]);
        assert_eq!(self.call(RELEASE, node, 24, 0), Ok(()));
    }
}

fn len_of(name: &[u8]) -> u32 {
    u32::try_from(name.len()).expect("names are short")
}

/// Reads a file of the host, and writes one; by polling and by interrupts, with all features of the
/// rings and with none.
fn files() {
    let buffer = memory::take(u64::from(HOST_LEN) + u64::from(PART));
    for (features, interrupts) in [
        (0, false),
        (feature::INDIRECT | feature::EVENT_INDEX, false),
        (feature::EVENT_INDEX, true),
    ] {
        let mut fs = Fs::activate(features);
        if interrupts {
            fs.queue.use_interrupts();
        }
        fs.init();
        let tag = [0, 1, 2, 3, 4, 5].map(|at| fs.device.config8(at));
        assert_eq!(&tag, b"share\0");
        assert_eq!(fs.device.config32(36), 1, "request queues");
        assert_eq!(fs.lookup(b"nothing\0"), Err(ENOENT));
        let (node, file) = fs.host_file();
        memory::fill(buffer, 0, HOST_LEN.into());
        fs.read_whole(node, file, buffer);
        fs.release(node, file);
    }
    say!("read {HOST_LEN}");
    let mut fs = Fs::start(0);
    let (node, file) = fs.create(GUEST_NAME).expect("a file can be created");
    memory::pattern(buffer, GUEST_LEN.into(), GUEST_SEED);
    for offset in (0..GUEST_LEN).step_by(50_000) {
        let len = (GUEST_LEN - offset).min(50_000);
        fs.write(node, file, offset, buffer + u64::from(offset), len);
    }
    fs.release(node, file);
    say!("written {GUEST_LEN}");
}

/// A share that is not written to.
fn read_only() {
    let buffer = memory::take(u64::from(HOST_LEN) + u64::from(PART));
    let mut fs = Fs::start(0);
    let (node, file) = fs.host_file();
    fs.read_whole(node, file, buffer);
    assert_eq!(fs.open(node, O_RDWR), Err(EROFS));
    assert_eq!(fs.create(GUEST_NAME), Err(EROFS));
}

/// Names that no driver of Linux sends: they do not lead out of the share.
fn names() {
    let mut fs = Fs::start(0);
    let [here, above] = [&b".\0"[..], b"..\0"].map(|name| {
        fs.lookup(name).expect("the root has itself, and is above itself");
        // struct fuse_attr, ino.
        memory::read64(fs.page + RESULT + 40)
    });
    assert_eq!(above, here, "above the root there is something else");
    for name in [&b"../secret\0"[..], b"/etc/passwd\0", b"folder/../../secret\0", b"\0"] {
        let found = fs.lookup(name);
        say!("{name:?}: {found:?}");
        assert!(found.is_err(), "{name:?} is found");
        assert!(fs.create(name).is_err(), "{name:?} is created");
    }
    fs.host_file();
}

/// Nothing is served before the driver is ready, and all that waits then is.
fn before_ready() {
    let device = Device::find(kind::FS);
    let features = device.negotiate(0);
    let _urgent = device.queue(URGENT, 16, features);
    let queue = device.queue(REQUESTS, 128, features);
    let mut fs = Fs { device, queue, page: memory::take(PAGE), number: 0 };
    let chain = fs.init_chain();
    fs.queue.add(&chain);
    for _ in 0..100 {
        device.notify(REQUESTS.into());
    }
    clock::pause_ms(20);
    assert_eq!(fs.queue.rings.used_index(), 0, "used before DRIVER_OK");
    device.ready();
    fs.queue.wait();
    assert_eq!(fs.answer(), Ok(()));
    fs.host_file();
}

/// Resets while the server reads a file for us: it writes to none of the buffers afterwards.
fn reset_in_flight() {
    const READS: u64 = 16;
    let buffers = memory::take(READS * u64::from(PART));
    let pages = memory::take(READS * PAGE);
    for _ in 0..10 {
        let mut fs = Fs::start(0);
        let (node, file) = fs.host_file();
        for read in 0..READS {
            fs.page = pages + read * PAGE;
            fs.range(file, 0, PART);
            let [header, arguments, answer, _] = fs.chain(READ, node, 40, 0);
            let buffer = Buffer::fill(buffers + read * u64::from(PART), PART);
            fs.queue.add(&[header, arguments, answer, buffer]);
        }
        fs.queue.kick();
        fs.device.reset();
        let used = fs.queue.rings.used_index();
        memory::fill(buffers, 0x55, READS * u64::from(PART));
        fs.device.notify(REQUESTS.into());
        clock::pause_ms(10);
        assert_eq!(fs.queue.rings.used_index(), used, "used after a reset");
        let all = usize::try_from(READS * u64::from(PART)).expect("it is in memory");
        let touched = memory::bytes(buffers, all).iter().any(|byte| *byte != 0x55);
        assert!(!touched, "written after a reset");
    }
    let buffer = memory::take(u64::from(HOST_LEN) + u64::from(PART));
    let mut fs = Fs::start(0);
    let (node, file) = fs.host_file();
    fs.read_whole(node, file, buffer);
}

/// The server has memory that is plugged while it works, and does without it when it is gone.
fn hot_plug_memory() {
    let buffer = memory::take(u64::from(HOST_LEN) + u64::from(PART));
    let mut fs = Fs::start(0);
    let (node, file) = fs.host_file();
    let mut mem = Mem::start();
    say!("works");
    let size = mem.wait_for_size(|size| size > 0);
    assert_eq!(mem.ask(PLUG, mem.start, mem.blocks(size)).0, ACK);
    fs.read_whole(node, file, mem.start);
    let (own, handle) = fs.create(GUEST_NAME).expect("a file can be created");
    memory::pattern(mem.start, GUEST_LEN.into(), GUEST_SEED);
    fs.write(own, handle, 0, mem.start, GUEST_LEN);
    fs.release(own, handle);
    say!("plugged {size}");
    mem.wait_for_size(|size| size == 0);
    assert_eq!(mem.ask(UNPLUG_ALL, 0, 0).0, ACK);
    mem.wait_for_nothing_usable();
    say!("unplugged");
    fs.read_whole(node, file, buffer);
    say!("still works");
    // The server has none of it: whatever it does about such a buffer, the machine lives.
    fs.range(file, 0, PART);
    let [header, arguments, answer, _] = fs.chain(READ, node, 40, 0);
    fs.queue.add(&[header, arguments, answer, Buffer::fill(mem.start, PART)]);
    fs.queue.kick();
    let end = clock::after_ms(TELL_MS);
    while fs.queue.pop().is_none() && fs.device.status() & status::NEEDS_RESET == 0 {
        assert!(!end.is_past(), "neither an answer nor a device that needs a reset");
        gate::out8(0x80, 0);
    }
    say!("gone memory: status {:#x}", fs.device.status());
}

/// The device does not start, however often it is tried. The machine goes on.
#[track_caller]
fn expect_unusable(device: &Device) {
    for _ in 0..3 {
        let features = device.negotiate(0);
        for index in [URGENT, REQUESTS] {
            device.queue(index, 16, features);
        }
        device.add_status(status::DRIVER_OK);
        assert_ne!(device.status() & status::NEEDS_RESET, 0, "started without a server");
        device.notify(REQUESTS.into());
    }
    device.reset();
}

/// A server that is lost while the device works.
fn lost() {
    let fs = Fs::activate(0);
    say!("serving");
    let end = clock::after_ms(TELL_MS);
    while fs.device.status() & status::NEEDS_RESET == 0 {
        assert!(!end.is_past(), "a device without its server says nothing");
    }
    // The configuration changed: that is how a driver comes to look. virtio 1.2 §4.2.2.
    assert_ne!(fs.device.read(register::INTERRUPT_STATUS) & 2, 0, "no interrupt");
    say!("lost");
    expect_unusable(&fs.device);
}

/// A server that fails when the device is to start.
fn unusable() {
    expect_unusable(&Device::find(kind::FS));
}

/// A server that does not let go of its queues: the reset is done all the same.
fn stuck() {
    let fs = Fs::activate(0);
    say!("serving");
    fs.device.reset();
    say!("reset");
    expect_unusable(&fs.device);
}
