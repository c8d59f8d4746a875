//! Each kind of thread does under its filter what it is there for, and lives.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{
    BufRead as _, BufReader, IoSlice, IoSliceMut, Read as _, Seek as _, SeekFrom, Write as _,
};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use io_uring::{IoUring, opcode, types};
use nix::cmsg_space;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::EventFd;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use nix::sys::uio::{preadv, pwritev};

use super::super::filter::{self, Role};
use super::everybody;
use super::sys::{End, spawn, wait};
use crate::probe::machine::{Machine, Stop};
use crate::vsock::streams;

/// Runs `work` on a thread of its own under the filter of `role`, in a jailed child of the test.
fn assert_lives<T: Send + 'static>(
    role: Role,
    keep: &[BorrowedFd<'_>],
    prepare: impl Fn() -> T,
    work: fn(T),
) {
    for who in everybody() {
        let child = spawn(|| {
            who.enter(keep).unwrap();
            let prepared = prepare();
            let (sender, done) = mpsc::channel();
            let thread = thread::spawn(move || {
                filter::install(role).unwrap();
                work(prepared);
                sender.send(()).unwrap();
            });
            // The thread sends, and then it ends: both are calls of its own.
            let done = done.recv();
            let joined = thread.join();
            i32::from(done.is_err() || joined.is_err())
        });
        assert_eq!(wait(child), End::Exited(0), "{who:?} {role:?}");
    }
}

/// What every thread does without saying so.
fn live() {
    let mut map: HashMap<u32, Vec<u8>> = HashMap::new();
    for index in 0..64 {
        // Small ones from the heap; large ones are mappings, which grow by moving.
        map.insert(index, vec![1; 1 << (index % 24)]);
        map.get_mut(&0).unwrap().extend_from_slice(&[0; 300_000]);
    }
    drop(map);
    let (sender, receiver) = mpsc::channel::<()>();
    receiver.recv_timeout(Duration::from_millis(5)).unwrap_err();
    drop(sender);
    let now = std::time::SystemTime::now();
    assert!(now.elapsed().is_ok());
    std::io::stderr().write_all(b"").unwrap();
}

#[test]
fn every_role_allocates_waits_and_ends() {
    for role in [Role::Main, Role::Vcpu, Role::Block] {
        assert_lives(role, &[], || (), |()| live());
    }
}

struct Sources {
    epoll: Epoll,
    timer: TimerFd,
    event: EventFd,
    streams: (UnixStream, UnixStream),
}

impl Sources {
    fn new() -> Self {
        Self {
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap(),
            timer: TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK).unwrap(),
            event: EventFd::new().unwrap(),
            streams: UnixStream::pair().unwrap(),
        }
    }
}

/// What the devices' turns do with descriptors.
fn serve(sources: &mut Sources) {
    let Sources { epoll, timer, event, streams: (near, far) } = sources;
    let wanted = |data| EpollEvent::new(EpollFlags::EPOLLIN, data);
    epoll.add(&*event, wanted(1)).unwrap();
    epoll.modify(&*event, &mut wanted(2)).unwrap();
    epoll.delete(&*event).unwrap();
    event.write(1).unwrap();
    event.read().unwrap();
    let soon = Expiration::OneShot(TimeSpec::from_duration(Duration::from_millis(1)));
    timer.set(soon, TimerSetTimeFlags::empty()).unwrap();
    near.write_all(b"hello").unwrap();
    far.read_exact(&mut [0; 5]).unwrap();
    pass_descriptor(near, far, &streams::pair().unwrap().0);
    near.shutdown(std::net::Shutdown::Both).unwrap();
}

/// What their activation and reset do.
fn set_up_and_reset(sources: &Sources) {
    let Sources { event, streams: (near, far), .. } = sources;
    pass_descriptor(near, far, near);
    event.write(1).unwrap();
    event.read().unwrap();
    let nothing = nix::sys::socket::recv(far.as_raw_fd(), &mut [0], MsgFlags::MSG_DONTWAIT);
    assert_eq!(nothing, Err(nix::errno::Errno::EAGAIN));
    near.shutdown(std::net::Shutdown::Both).unwrap();
}

fn pass_descriptor(near: &UnixStream, far: &UnixStream, passed: &UnixStream) {
    let fds = [passed.as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&fds)];
    let flags = MsgFlags::MSG_NOSIGNAL;
    sendmsg::<()>(near.as_raw_fd(), &[IoSlice::new(b"x")], &rights, flags, None).unwrap();
    let (mut space, mut byte) = (cmsg_space!([i32; 1]), [0]);
    let mut parts = [IoSliceMut::new(&mut byte)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(far.as_raw_fd(), &mut parts, Some(&mut space), flags).unwrap();
    assert!(matches!(message.cmsgs().unwrap().next(), Some(ControlMessageOwned::ScmRights(_))));
}

#[test]
fn devices_are_set_up_and_reset_on_every_thread_that_asks() {
    for role in [Role::Main, Role::Vcpu] {
        assert_lives(role, &[], Sources::new, |sources| set_up_and_reset(&sources));
    }
}

#[test]
fn event_loop_waits_for_sources_and_serves_devices() {
    assert_lives(Role::Main, &[], Sources::new, |mut sources| {
        serve(&mut sources);
        let mut events = [EpollEvent::empty(); 4];
        let Sources { epoll, event, .. } = &sources;
        assert_eq!(epoll.wait(&mut events, EpollTimeout::from(1_u8)).unwrap(), 0);
        epoll.add(event, EpollEvent::new(EpollFlags::EPOLLIN, 7)).unwrap();
        event.write(1).unwrap();
        assert_eq!(epoll.wait(&mut events, EpollTimeout::NONE).unwrap(), 1);
    });
}

/// A file of a few KiB that is open and nowhere.
fn disk() -> File {
    let file = tempfile::tempfile().unwrap();
    file.set_len(16 << 10).unwrap();
    file
}

#[test]
fn disks_are_read_and_written_by_workers() {
    let file = disk();
    let prepare = || file.try_clone().unwrap();
    assert_lives(Role::Block, &[file.as_fd()], prepare, |disk| {
        let mut buffer = [0; 2];
        assert_eq!(pwritev(&disk, &[IoSlice::new(b"a"), IoSlice::new(b"b")], 512).unwrap(), 2);
        assert_eq!(preadv(&disk, &mut [IoSliceMut::new(&mut buffer)], 512).unwrap(), 2);
        assert_eq!(&buffer, b"ab");
        disk.sync_data().unwrap();
        let keep = FallocateFlags::FALLOC_FL_KEEP_SIZE;
        fallocate(&disk, keep | FallocateFlags::FALLOC_FL_PUNCH_HOLE, 4096, 4096).unwrap();
        // Not every file system zeroes ranges; the filter lets it try.
        let _ = fallocate(&disk, keep | FallocateFlags::FALLOC_FL_ZERO_RANGE, 8192, 4096);
    });
}

#[test]
fn disks_are_read_by_a_ring_that_was_set_up_before() {
    if let Err(error) = IoUring::new(8) {
        eprintln!("SKIPPED: no io_uring here: {error}");
        return;
    }
    let file = disk();
    file.write_at(b"sector", 512).unwrap();
    for role in [Role::Main, Role::Vcpu] {
        let prepare = || (IoUring::new(8).unwrap(), file.try_clone().unwrap());
        assert_lives(role, &[file.as_fd()], prepare, |(mut ring, disk)| {
            let fd = types::Fd(disk.as_raw_fd());
            let mut buffer = [0_u8; 6];
            let read = opcode::Read::new(fd, buffer.as_mut_ptr(), 6).offset(512).build();
            super::sys::push(&mut ring, &read);
            super::sys::push(&mut ring, &opcode::Fsync::new(fd).build());
            ring.submit_and_wait(2).unwrap();
            assert!(ring.completion().all(|done| done.result() >= 0));
            assert_eq!(&buffer, b"sector");
        });
    }
}

#[test]
fn memory_is_given_back_to_the_host() {
    let prepare = || {
        let flags = nix::sys::memfd::MFdFlags::MFD_CLOEXEC;
        let file = File::from(nix::sys::memfd::memfd_create(c"guest", flags).unwrap());
        file.set_len(1 << 20).unwrap();
        file
    };
    assert_lives(Role::Main, &[], prepare, |file| {
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        fallocate(&file, flags, 0, 1 << 16).unwrap();
    });
}

#[test]
fn numbers_of_the_process_are_read_from_a_file_that_was_open() {
    for who in everybody() {
        let child = spawn(|| {
            let mut smaps = File::open("/proc/self/smaps").unwrap();
            who.enter(&[smaps.as_fd()]).unwrap();
            filter::install(Role::Main).unwrap();
            let mut told = 0;
            for _ in 0..2 {
                smaps.seek(SeekFrom::Start(0)).unwrap();
                let lines = BufReader::new(&smaps).lines().map(Result::unwrap);
                told += lines.filter(|line| line.starts_with("Pss:")).count();
            }
            i32::from(told < 10)
        });
        assert_eq!(wait(child), End::Exited(0), "{who:?}");
    }
}

#[test]
fn virtual_cpu_runs() {
    let kvm = match OpenOptions::new().read(true).write(true).open("/dev/kvm") {
        Ok(kvm) => OwnedFd::from(kvm),
        Err(error) => {
            eprintln!("SKIPPED: /dev/kvm: {error}");
            return;
        }
    };
    let prepare = || Machine::build_on(kvm.try_clone().unwrap()).ok().unwrap();
    assert_lives(Role::Vcpu, &[kvm.as_fd()], prepare, |machine| {
        // Where KVM only emulates, it stops early; the calls are the same.
        assert!(matches!(machine.run(), Stop::Finished | Stop::At { .. }));
        live();
    });
}
