//! Tests: the device behind its registers, with back ends that are honest (crate vhost's,
//! virtiofsd) and with some that are not.

use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::poll::{PollFd, PollFlags, poll};
use vhost::vhost_user::message::FrontendReq;

use super::*;
use crate::memory::{Ram, Size};
use crate::virtio::fs::testing::honest;
use crate::virtio::testing::{Buffer, Driver, DriverQueue};

const QUICK: Duration = Duration::from_millis(500);
/// For what has to be answered before the back end fails.
const PATIENT: Duration = Duration::from_secs(3);
/// The queue of urgent requests. virtio 1.2 §5.11.2.
const URGENT: usize = 0;
/// The first of the others.
const REQUESTS: usize = 1;
/// A request that the device never sends.
const NEVER: FrontendReq = FrontendReq::SET_LOG_FD;

fn config() -> Config {
    Config { socket: -1, tag: "share".into(), request_queues: 1 }
}

/// Waits for an interrupt, up to 10 seconds.
fn wait_for_interrupt(driver: &Driver) {
    let mut wanted = [PollFd::new(driver.transport.interrupt().as_fd(), PollFlags::POLLIN)];
    assert_eq!(poll(&mut wanted, 10_000u16), Ok(1), "no interrupt");
    // As the kernel does, which makes an interrupt of it.
    nix::unistd::read(driver.transport.interrupt().as_fd(), &mut [0; 8]).unwrap();
    assert_eq!(driver.read(0x060) & 1, 1, "the status says why");
    driver.write(0x064, 1);
}

fn ask(driver: &mut Driver, index: usize, text: &[u8]) -> Buffer {
    let queue = driver.queue(index);
    let chain = [queue.readable(text), queue.writable(text.len())];
    queue.add(&chain);
    driver.kick(index);
    chain[1]
}

/// Both queues as a driver sets them up, without DRIVER_OK.
fn set_up(driver: &mut Driver) {
    assert!(driver.negotiate(0));
    for index in [URGENT, REQUESTS] {
        let queue = DriverQueue::new(&driver.memory, index, 16);
        driver.set_up_queue(index, &queue.config());
    }
}

/// What a dishonest back end does at one of the requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Closes,
    Hangs,
    Refuses,
    SaysAnotherName,
    SaysTooMuch,
    SaysHalf,
    SaysZero,
    /// With this and each further one, but not longer than a back end may take for one.
    TakesItsTime,
}

/// A back end that does as it is told, and what it was told, until it is asked for `at`.
fn dishonest(at: FrontendReq, fault: Fault) -> (UnixStream, Receiver<u32>) {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let (seen, requests) = channel();
    std::thread::spawn(move || {
        let mut header = [0; 12];
        let mut late = false;
        while theirs.read_exact(&mut header).is_ok() {
            let word = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().unwrap());
            let (request, flags, len) = (word(0), word(4), word(8));
            let mut body = vec![0; len as usize];
            theirs.read_exact(&mut body).unwrap();
            let _ = seen.send(request);
            let mut reply = match FrontendReq::try_from(request).unwrap() {
                FrontendReq::GET_FEATURES => (RING_FEATURES | 1 << 30).to_le_bytes().to_vec(),
                FrontendReq::GET_PROTOCOL_FEATURES => u64::MAX.to_le_bytes().to_vec(),
                FrontendReq::GET_QUEUE_NUM => 2u64.to_le_bytes().to_vec(),
                FrontendReq::GET_VRING_BASE => [&body[..4], &[0; 4]].concat(),
                _ if flags & 8 != 0 => vec![0; 8],
                _ => continue,
            };
            let mut name = request;
            late |= request == u32::from(at) && fault == Fault::TakesItsTime;
            if late {
                std::thread::sleep(QUICK * 3 / 5);
            }
            if request == u32::from(at) {
                match fault {
                    Fault::Closes => return,
                    Fault::Hangs => continue,
                    Fault::Refuses => reply = vec![0xff; 8],
                    Fault::SaysAnotherName => name += 1,
                    Fault::SaysTooMuch => reply.push(0),
                    Fault::SaysHalf => {
                        theirs.write_all(&[1, 0, 0]).unwrap();
                        continue;
                    }
                    Fault::SaysZero => reply = vec![0; 8],
                    Fault::TakesItsTime => {}
                }
            }
            let len = u32::try_from(reply.len()).unwrap();
            let header = [name, 5, len].map(u32::to_le_bytes).concat();
            if theirs.write_all(&[header, reply].concat()).is_err() {
                return;
            }
        }
    });
    (ours, requests)
}

fn error_text(error: &FsError) -> String {
    std::error::Error::source(error).unwrap().to_string()
}

#[test]
fn driver_finds_tag_and_queues() {
    let (socket, _thread) = honest();
    let device = Device::new(&config(), socket.into()).unwrap();
    let driver = Driver::new(Box::new(device));
    let mut space = [0; 40];
    space[..5].copy_from_slice(b"share");
    space[36] = 1;
    assert_eq!(driver.config::<40>(0), space);
    assert_eq!(driver.config::<4>(40), [0; 4]);
    assert_eq!(driver.transport.kicks().len(), 2);
}

#[test]
fn configuration_is_strict() {
    let parsed: Config = serde_json::from_str(r#"{"socket": -1, "tag": "share"}"#).unwrap();
    assert_eq!(parsed, config());
    serde_json::from_str::<Config>(r#"{"socket": 1, "tag": "a", "cache": true}"#).unwrap_err();
    let socket = || OwnedFd::from(UnixStream::pair().unwrap().0);
    for tag in ["", "a\0b", "0123456789012345678901234567890123456"] {
        let error = Device::new(&Config { tag: tag.into(), ..config() }, socket()).unwrap_err();
        assert!(matches!(error, FsError::Tag { .. }), "{error:?}");
    }
    for request_queues in [0, 33] {
        let error = Device::new(&Config { request_queues, ..config() }, socket()).unwrap_err();
        assert!(matches!(error, FsError::Queues { .. }), "{error:?}");
    }
}

#[test]
fn back_end_serves_the_guest_without_a_turn_of_the_event_loop() {
    let (socket, thread) = honest();
    let mut driver = Driver::new(Box::new(Device::new(&config(), socket.into()).unwrap()));
    for features in [0, RING_FEATURES, 0] {
        driver.start(features, 16);
        for index in [URGENT, REQUESTS, REQUESTS] {
            if features != 0 {
                let next = driver.queue(index).avail_idx();
                driver.queue(index).set_used_event(next);
            }
            let answer = ask(&mut driver, index, b"hello");
            wait_for_interrupt(&driver);
            assert_eq!(driver.queue(index).read(answer), b"HELLO");
            assert_eq!(driver.queue(index).take_used().len(), 1);
        }
    }
    drop(driver);
    thread.join().unwrap();
}

#[test]
fn back_end_leaves_the_queues_of_a_reset_device_alone() {
    let (socket, _thread) = honest();
    let mut driver = Driver::new(Box::new(Device::new(&config(), socket.into()).unwrap()));
    driver.start(0, 16);
    driver.write(0x070, 0);
    assert_eq!((driver.status(), driver.read(0x060)), (0, 0));
    ask(&mut driver, REQUESTS, b"hello");
    std::thread::sleep(QUICK);
    assert!(driver.queue(REQUESTS).take_used().is_empty());
    driver.start(0, 16);
    ask(&mut driver, REQUESTS, b"hello");
    wait_for_interrupt(&driver);
    assert_eq!(driver.queue(REQUESTS).take_used().len(), 1);
    assert_eq!(driver.counter("back_end_failures"), 0);
}

#[test]
fn queue_that_the_driver_does_not_want_is_not_started() {
    let (socket, requests) = dishonest(NEVER, Fault::Closes);
    let mut driver = Driver::new(Box::new(Device::new(&config(), socket.into()).unwrap()));
    assert!(driver.negotiate(0));
    let queue = DriverQueue::new(&driver.memory, REQUESTS, 16);
    driver.set_up_queue(REQUESTS, &queue.config());
    assert!(driver.driver_ok());
    driver.write(0x070, 0);
    let seen: Vec<u32> = requests.try_iter().collect();
    for request in [FrontendReq::SET_VRING_KICK, FrontendReq::GET_VRING_BASE] {
        assert_eq!(seen.iter().filter(|&&one| one == u32::from(request)).count(), 1);
    }
}

#[test]
fn back_end_at_work_is_told_that_memory_grows_and_shrinks() {
    let ram = Ram::create_on_host(Size { mib: 32, hotplug_mib: 512 }, 544).unwrap();
    let hotplug = ram.hotplug().unwrap();
    let (socket, requests) = dishonest(NEVER, Fault::Closes);
    let device = Device::new(&config(), socket.into()).unwrap();
    let mut driver = Driver::with_memory(Box::new(device), ram.guest().clone());
    let share = |driver: &Driver| {
        driver.transport.device().downcast_mut::<Device>().unwrap().share(hotplug.memory());
    };
    let told = || {
        let table = |&request: &u32| request == u32::from(FrontendReq::SET_MEM_TABLE);
        requests.try_iter().filter(table).count()
    };
    share(&driver);
    assert_eq!(told(), 0, "it has none yet");
    driver.start(0, 16);
    assert_eq!(told(), 1);
    for len in [512 << 20, 128 << 20, 0] {
        hotplug.set_there_len(len);
        share(&driver);
        assert_eq!(told(), 1);
    }
    assert_eq!(driver.counter("back_end_failures"), 0);
}

#[test]
fn back_end_that_fails_before_there_is_a_guest_is_no_device() {
    let faults = [
        (Fault::Closes, "back end is gone"),
        (Fault::Hangs, "no reply within"),
        (Fault::SaysAnotherName, "makes no sense"),
        (Fault::SaysTooMuch, "makes no sense"),
        (Fault::SaysHalf, "no reply within"),
        (Fault::SaysZero, "it has no"),
    ];
    let gets =
        [FrontendReq::GET_FEATURES, FrontendReq::GET_PROTOCOL_FEATURES, FrontendReq::GET_QUEUE_NUM];
    for (at, (fault, expected)) in gets.into_iter().flat_map(|at| faults.map(|fault| (at, fault))) {
        let (socket, _requests) = dishonest(at, fault);
        let start = Instant::now();
        let error = Device::with_deadline(&config(), socket.into(), QUICK).unwrap_err();
        assert!(error_text(&error).contains(expected), "{at:?} {fault:?}: {error:?}");
        assert!(start.elapsed() < DEADLINE);
    }
    let (socket, _requests) = dishonest(FrontendReq::SET_OWNER, Fault::Refuses);
    let error = Device::with_deadline(&config(), socket.into(), QUICK).unwrap_err();
    assert!(error_text(&error).contains("refused"), "{error:?}");
}

#[test]
fn back_end_with_too_few_queues_is_no_device() {
    let (socket, _requests) = dishonest(NEVER, Fault::Closes);
    let more = Config { request_queues: 2, ..config() };
    let error = Device::with_deadline(&more, socket.into(), QUICK).unwrap_err();
    assert!(error_text(&error).contains("as many queues"), "{error:?}");
}

#[test]
fn back_end_that_fails_at_the_start_of_a_driver_leaves_a_machine_that_lives() {
    let sets = [
        FrontendReq::SET_FEATURES,
        FrontendReq::SET_MEM_TABLE,
        FrontendReq::SET_VRING_NUM,
        FrontendReq::SET_VRING_BASE,
        FrontendReq::SET_VRING_ADDR,
        FrontendReq::SET_VRING_CALL,
        FrontendReq::SET_VRING_KICK,
        FrontendReq::SET_VRING_ENABLE,
    ];
    let faults = [Fault::Closes, Fault::Hangs, Fault::Refuses, Fault::SaysTooMuch];
    for (at, fault) in sets.into_iter().flat_map(|at| faults.map(|fault| (at, fault))) {
        let (socket, _requests) = dishonest(at, fault);
        let device = Device::with_deadline(&config(), socket.into(), QUICK).unwrap();
        let mut driver = Driver::new(Box::new(device));
        for _ in 0..2 {
            set_up(&mut driver);
            assert!(!driver.driver_ok(), "{at:?} {fault:?}");
        }
        driver.run();
        assert_eq!(driver.counter("back_end_failures"), 1, "{at:?} {fault:?}");
    }
}

#[test]
fn status_says_why_as_soon_as_the_back_end_can_interrupt() {
    // It has the descriptor, and the device is not started yet.
    let (socket, _requests) = dishonest(FrontendReq::SET_VRING_KICK, Fault::Refuses);
    let mut driver = Driver::new(Box::new(Device::new(&config(), socket.into()).unwrap()));
    set_up(&mut driver);
    assert!(!driver.driver_ok());
    assert_eq!(driver.read(0x060) & 1, 1);
    driver.write(0x070, 0);
    assert_eq!(driver.read(0x060), 0);
}

#[test]
fn back_end_that_takes_its_time_for_each_request_does_not_get_it_for_all() {
    let (socket, requests) = dishonest(FrontendReq::SET_FEATURES, Fault::TakesItsTime);
    let device = Device::with_deadline(&config(), socket.into(), QUICK).unwrap();
    let mut driver = Driver::new(Box::new(device));
    set_up(&mut driver);
    assert!(!driver.driver_ok());
    assert_eq!(driver.counter("back_end_failures"), 1);
    let last = u32::from(FrontendReq::SET_VRING_ENABLE);
    assert!(!requests.try_iter().any(|request| request == last), "it was asked to the end");
}

#[test]
fn back_end_that_fails_at_a_reset_is_given_up_and_the_reset_is_done() {
    for fault in [Fault::Closes, Fault::Hangs, Fault::SaysTooMuch, Fault::SaysAnotherName] {
        let (socket, _requests) = dishonest(FrontendReq::GET_VRING_BASE, fault);
        let device = Device::with_deadline(&config(), socket.into(), PATIENT).unwrap();
        let mut driver = Driver::new(Box::new(device));
        driver.start(0, 16);
        driver.write(0x070, 0);
        assert_eq!(driver.status(), 0);
        set_up(&mut driver);
        assert!(!driver.driver_ok());
    }
}

#[test]
fn back_end_that_dies_asks_the_guest_for_a_reset() {
    let (socket, _requests) = dishonest(NEVER, Fault::Closes);
    let end = socket.try_clone().unwrap();
    let mut driver = Driver::new(Box::new(Device::new(&config(), socket.into()).unwrap()));
    driver.start(0, 16);
    driver.run();
    assert_eq!(driver.status() & 64, 0);
    end.shutdown(std::net::Shutdown::Both).unwrap();
    assert!(driver.wait());
    assert_ne!(driver.status() & 64, 0);
    assert!(driver.take_config_interrupt());
    driver.write(0x070, 0);
    assert_eq!(driver.status(), 0);
}

#[test]
fn back_end_that_speaks_unasked_is_given_up() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let (mut replies, _requests) = dishonest(NEVER, Fault::Closes);
    // Between the device and a back end that does as it is told, somebody who adds a byte.
    let mut upstream = replies.try_clone().unwrap();
    let mut downstream = theirs.try_clone().unwrap();
    let mut added = theirs.try_clone().unwrap();
    std::thread::spawn(move || std::io::copy(&mut downstream, &mut upstream));
    std::thread::spawn(move || std::io::copy(&mut replies, &mut theirs));
    let mut driver = Driver::new(Box::new(Device::new(&config(), ours.into()).unwrap()));
    driver.start(0, 16);
    driver.run();
    assert_eq!(driver.counter("back_end_failures"), 0);
    added.write_all(&[7]).unwrap();
    assert!(driver.wait());
    assert_eq!(driver.counter("back_end_failures"), 1);
    assert_ne!(driver.status() & 64, 0);
}

/// `FUSE_INIT`, linux/fuse.h: `struct fuse_in_header` and `struct fuse_init_in` of 7.31.
fn fuse_init() -> Vec<u8> {
    let words: [u32; 14] = [56, 26, 1, 0, 0, 0, 0, 0, 0, 0, 7, 31, 0, 0];
    words.into_iter().flat_map(u32::to_le_bytes).collect()
}

struct Virtiofsd {
    child: Child,
    socket: UnixStream,
    _folder: tempfile::TempDir,
}

impl Virtiofsd {
    /// The reason why not, otherwise.
    fn start() -> Result<Self, String> {
        let programs = ["/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd"];
        let program = programs.into_iter().find(|path| Path::new(path).exists());
        let program = program.ok_or("virtiofsd is not installed")?;
        if !nix::unistd::geteuid().is_root() {
            return Err("only root starts virtiofsd".into());
        }
        let folder = tempfile::tempdir().unwrap();
        let shared = folder.path().join("shared");
        std::fs::create_dir(&shared).unwrap();
        let path = folder.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        fcntl(&listener, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
        let child = Command::new(program)
            .arg(format!("--fd={}", listener.as_raw_fd()))
            .args(["-f", "-o", &format!("source={},sandbox=chroot", shared.display())])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("{program}: {error}"))?;
        let socket = UnixStream::connect(&path).unwrap();
        Ok(Self { child, socket, _folder: folder })
    }
}

impl Drop for Virtiofsd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn virtiofsd_answers_the_first_request_before_and_after_a_reset() {
    let server = match Virtiofsd::start() {
        Ok(server) => server,
        Err(reason) => return eprintln!("SKIPPED: {reason}"),
    };
    let socket = server.socket.try_clone().unwrap();
    let mut driver = Driver::new(Box::new(Device::new(&config(), socket.into()).unwrap()));
    for features in [0, RING_FEATURES] {
        driver.start(features, 128);
        let queue = driver.queue(REQUESTS);
        let chain = [queue.readable(&fuse_init()), queue.writable(80)];
        queue.add(&chain);
        driver.kick(REQUESTS);
        // It interrupts at SET_VRING_CALL, too.
        let used = loop {
            wait_for_interrupt(&driver);
            let used = driver.queue(REQUESTS).take_used();
            if !used.is_empty() {
                break used;
            }
        };
        assert_eq!(used.len(), 1);
        let answer = driver.queue(REQUESTS).read(chain[1]);
        let word = |at: usize| u32::from_le_bytes(answer[at..at + 4].try_into().unwrap());
        // struct fuse_out_header: length, no error, the request's number; then version 7.
        assert_eq!((word(0), word(4), word(8), word(16)), (used[0].1, 0, 1, 7));
    }
    drop(server);
    assert!(driver.wait());
    assert_ne!(driver.status() & 64, 0);
}
