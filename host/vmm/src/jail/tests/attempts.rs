//! What a guest that took over the VMM would try.

use std::fs::File;
use std::io::IoSliceMut;
use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::{getpid, getppid};
use seccompiler::SeccompAction;

use super::super::{enter, filter, filter::Role, landlock, namespaces, privileges};
use super::sys::{End, page, spawn, syscall, wait};
use super::{Who, everybody, forbid_namespaces};

/// What is on the host that a VMM might reach for.
struct Host {
    tcp: TcpListener,
    _abstract: UnixListener,
    name: String,
    /// The host's network, as a descriptor that was left in the jail.
    network: File,
}

impl Host {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("husk-jail-{}-{}", getpid(), NEXT.fetch_add(1, Ordering::Relaxed));
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        Self {
            tcp: TcpListener::bind("127.0.0.1:0").unwrap(),
            _abstract: UnixListener::bind_addr(&address).unwrap(),
            name,
            network: File::open("/proc/self/ns/net").unwrap(),
        }
    }

    fn connect_tcp(&self) -> Result<(), Errno> {
        let port = self.tcp.local_addr().unwrap().port();
        errno(std::net::TcpStream::connect(("127.0.0.1", port)))
    }

    fn connect_abstract(&self) -> Result<(), Errno> {
        let address = SocketAddr::from_abstract_name(&self.name).unwrap();
        errno(std::os::unix::net::UnixStream::connect_addr(&address))
    }
}

fn errno<T>(result: std::io::Result<T>) -> Result<(), Errno> {
    result.map(drop).map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(0)))
}

fn plain(number: libc::c_long, arguments: [usize; 6]) -> Result<(), Errno> {
    syscall(number, arguments).map(drop)
}

fn of(number: i32) -> usize {
    usize::try_from(number).unwrap()
}

fn number(fd: RawFd) -> usize {
    of(fd)
}

fn path(path: &'static std::ffi::CStr) -> usize {
    path.as_ptr().addr()
}

const AT_FDCWD: usize = usize::MAX - 99;

fn open(name: &'static std::ffi::CStr, flags: i32) -> Result<(), Errno> {
    plain(libc::SYS_openat, [AT_FDCWD, path(name), of(flags), 0o600, 0, 0])
}

fn parent() -> usize {
    of(getppid().as_raw())
}

/// The parent has this static where its child has it.
fn read_parent(_: &Host) -> Result<(), Errno> {
    static THERE: [u8; 8] = *b"01234567";
    let mut buffer = [0; THERE.len()];
    let remote = RemoteIoVec { base: THERE.as_ptr().addr(), len: THERE.len() };
    process_vm_readv(getppid(), &mut [IoSliceMut::new(&mut buffer)], &[remote]).map(drop)
}

type Attempt = (&'static str, fn(&Host) -> Result<(), Errno>);

/// Attempts that a layer besides the filter refuses, whoever makes them.
const REFUSED_TWICE: &[Attempt] = &[
    ("open a file", |_| open(c"/etc/passwd", libc::O_RDONLY)),
    ("make a file", |_| open(c"/tmp/husk-jail-was-here", libc::O_WRONLY | libc::O_CREAT)),
    ("open /dev/kvm anew", |_| open(c"/dev/kvm", libc::O_RDWR)),
    ("open /proc/self/mem", |_| open(c"/proc/self/mem", libc::O_RDWR)),
    ("list a folder", |_| open(c"/", libc::O_RDONLY | libc::O_DIRECTORY)),
    ("connect by TCP", Host::connect_tcp),
    ("connect to an abstract socket", Host::connect_abstract),
    ("exec", |_| plain(libc::SYS_execve, [path(c"/bin/true"), 0, 0, 0, 0, 0])),
    ("ptrace", |_| plain(libc::SYS_ptrace, [of(0x4206), parent(), 0, 0, 0, 0])),
    ("read memory of another", read_parent),
    ("kill the parent", |_| plain(libc::SYS_kill, [parent(), 0, 0, 0, 0, 0])),
    ("mount", |_| plain(libc::SYS_mount, [0, path(c"/"), path(c"tmpfs"), 0, 0, 0])),
    ("pivot_root", |_| plain(libc::SYS_pivot_root, [path(c"."), path(c"."), 0, 0, 0, 0])),
    ("chroot", |_| plain(libc::SYS_chroot, [path(c"/"), 0, 0, 0, 0, 0])),
    ("setns", |host| plain(libc::SYS_setns, [number(host.network.as_raw_fd()), 0, 0, 0, 0, 0])),
    ("become root", |_| plain(libc::SYS_setresuid, [0; 6])),
    ("set the host's name", |_| plain(libc::SYS_sethostname, [path(c"x"), 1, 0, 0, 0, 0])),
    ("make a device", |_| {
        let mode = of(0o020_600);
        plain(libc::SYS_mknodat, [AT_FDCWD, path(c"/x"), mode, of(0x105), 0, 0])
    }),
    ("bind a port", |_| errno(TcpListener::bind("127.0.0.1:0"))),
    ("load a module", |_| plain(libc::SYS_finit_module, [0, path(c""), 0, 0, 0, 0])),
];

/// Attempts that only the filter refuses, or only for some.
const REFUSED_BY_FILTER: &[Attempt] = &[
    ("fork", |_| plain(libc::SYS_fork, [0; 6])),
    ("vfork", |_| plain(libc::SYS_clone, [of(libc::SIGCHLD), 0, 0, 0, 0, 0])),
    ("clone3", |_| plain(libc::SYS_clone3, [0, 0, 0, 0, 0, 0])),
    ("start a thread", |_| errno(std::thread::Builder::new().spawn(|| ()))),
    ("socket", |_| plain(libc::SYS_socket, [of(libc::AF_INET), of(libc::SOCK_DGRAM), 0, 0, 0, 0])),
    ("unix socket", |_| {
        plain(libc::SYS_socket, [of(libc::AF_UNIX), of(libc::SOCK_STREAM), 0, 0, 0, 0])
    }),
    ("pair of datagram sockets", |_| {
        plain(libc::SYS_socketpair, [of(libc::AF_UNIX), of(libc::SOCK_DGRAM), 0, page(), 0, 0])
    }),
    ("netlink socket", |_| {
        plain(libc::SYS_socket, [of(libc::AF_NETLINK), of(libc::SOCK_RAW), 0, 0, 0, 0])
    }),
    ("listen", |host| plain(libc::SYS_listen, [number(host.tcp.as_raw_fd()), 1, 0, 0, 0, 0])),
    ("accept", |host| plain(libc::SYS_accept4, [number(host.tcp.as_raw_fd()), 0, 0, 0, 0, 0])),
    ("unshare", |_| plain(libc::SYS_unshare, [of(libc::CLONE_NEWUSER), 0, 0, 0, 0, 0])),
    ("bpf", |_| plain(libc::SYS_bpf, [0; 6])),
    ("keyctl", |_| plain(libc::SYS_keyctl, [0; 6])),
    ("perf_event_open", |_| plain(libc::SYS_perf_event_open, [0; 6])),
    ("userfaultfd", |_| plain(libc::SYS_userfaultfd, [0; 6])),
    ("memfd_create", |_| plain(libc::SYS_memfd_create, [path(c"x"), 0, 0, 0, 0, 0])),
    ("pidfd_getfd", |_| plain(libc::SYS_pidfd_getfd, [0; 6])),
    ("io_uring_setup", |_| plain(libc::SYS_io_uring_setup, [0; 6])),
    ("io_uring_register", |_| plain(libc::SYS_io_uring_register, [0; 6])),
    ("kill itself by another number", |_| {
        plain(libc::SYS_tgkill, [parent(), parent(), 0, 0, 0, 0])
    }),
    ("put words into a terminal", |_| plain(libc::SYS_ioctl, [0, of(0x5412), path(c"x"), 0, 0, 0])),
    ("make a VM", |_| plain(libc::SYS_ioctl, [0, of(0xae01), 0, 0, 0, 0])),
    ("map executable memory", |_| {
        let flags = of(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        plain(
            libc::SYS_mmap,
            [0, 4096, of(libc::PROT_READ | libc::PROT_EXEC), flags, usize::MAX, 0],
        )
    }),
    ("map a file", |host| {
        let fd = number(host.network.as_raw_fd());
        plain(libc::SYS_mmap, [0, 4096, 1, of(libc::MAP_PRIVATE), fd, 0])
    }),
    ("make memory executable", |_| {
        plain(libc::SYS_mprotect, [page(), 4096, of(libc::PROT_READ | libc::PROT_EXEC), 0, 0, 0])
    }),
    ("make memory executable by key", |_| {
        let protection = of(libc::PROT_READ | libc::PROT_EXEC);
        plain(libc::SYS_pkey_mprotect, [page(), 4096, protection, usize::MAX, 0, 0])
    }),
    ("map memory that does not count as its own", |_| {
        let flags = of(libc::MAP_SHARED | libc::MAP_ANONYMOUS);
        plain(libc::SYS_mmap, [0, 4096, of(libc::PROT_READ), flags, usize::MAX, 0])
    }),
    ("map a stack", |_| {
        let flags = of(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_GROWSDOWN);
        plain(libc::SYS_mmap, [0, 4096, of(libc::PROT_READ), flags, usize::MAX, 0])
    }),
    ("take the host's huge pages", |_| {
        let flags = of(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_HUGETLB);
        plain(libc::SYS_mmap, [0, 4096, of(libc::PROT_READ), flags, usize::MAX, 0])
    }),
    ("make the monitor's stream block", |_| {
        plain(libc::SYS_ioctl, [0, of(0x5421), page(), 0, 0, 0])
    }),
    ("make a stream that blocks", |_| {
        let kind = of(libc::SOCK_STREAM | libc::SOCK_CLOEXEC);
        plain(libc::SYS_socketpair, [of(libc::AF_UNIX), kind, 0, page(), 0, 0])
    }),
    ("send urgent bytes", |_| plain(libc::SYS_sendto, [0, path(c"x"), 1, of(libc::MSG_OOB), 0, 0])),
    ("send an urgent message", |_| {
        plain(libc::SYS_sendmsg, [0, page(), of(libc::MSG_OOB), 0, 0, 0])
    }),
    ("receive urgent bytes", |_| {
        plain(libc::SYS_recvfrom, [0, page(), 1, of(libc::MSG_OOB), 0, 0])
    }),
    ("receive an urgent message", |_| {
        plain(libc::SYS_recvmsg, [0, page(), of(libc::MSG_OOB), 0, 0, 0])
    }),
    ("take signals from a file", |_| plain(libc::SYS_fcntl, [0, of(libc::F_SETOWN), 0, 0, 0, 0])),
    ("change a descriptor", |_| plain(libc::SYS_fcntl, [0, of(libc::F_SETFL), 0, 0, 0, 0])),
    ("copy a descriptor", |_| plain(libc::SYS_fcntl, [0, of(libc::F_DUPFD), 0, 0, 0, 0])),
    ("set the guest's clock", |_| plain(libc::SYS_ioctl, [0, of(0x4030_ae7b), 0, 0, 0, 0])),
    CHANGE_MEMORY,
    ("send to an address whose low half is zero", |_| {
        plain(libc::SYS_sendto, [0, path(c"x"), 1, 0, 1 << 32, 0])
    }),
    ("become traceable", |_| plain(libc::SYS_prctl, [of(libc::PR_SET_DUMPABLE), 1, 0, 0, 0, 0])),
    ("change limits", |_| plain(libc::SYS_prlimit64, [0; 6])),
    ("send to an address", |_| plain(libc::SYS_sendto, [0, path(c"x"), 1, 0, path(c"\x01"), 2])),
    // The number of getpid in the x32 table.
    ("a call of another architecture", |_| plain(0x4000_0000 + libc::SYS_getpid, [0; 6])),
];

/// How `attempt` ends in a child that `prepare` put somewhere: `None` when it succeeded.
fn refusal(host: &Host, prepare: impl FnOnce(), attempt: &Attempt) -> Option<End> {
    let child = spawn(|| {
        prepare();
        attempt.1(host).map_or_else(|error| error as i32, |()| 0)
    });
    match wait(child) {
        End::Exited(0) => None,
        end => Some(end),
    }
}

fn keep(host: &Host) -> Vec<BorrowedFd<'_>> {
    vec![host.network.as_fd(), host.tcp.as_fd()]
}

#[test]
fn filtered_thread_that_tries_to_leave_is_killed() {
    let host = Host::new();
    for who in everybody() {
        for role in [Role::Main, Role::MainHotplug, Role::Vcpu, Role::Block] {
            // What hot-plug memory needs is the one difference.
            let others =
                |attempt: &&Attempt| role != Role::MainHotplug || attempt.0 != CHANGE_MEMORY.0;
            for attempt in REFUSED_TWICE.iter().chain(REFUSED_BY_FILTER).filter(others) {
                let prepare = || {
                    who.enter(&keep(&host)).unwrap();
                    filter::install(role).unwrap();
                };
                let end = refusal(&host, prepare, attempt);
                assert_eq!(
                    end,
                    Some(End::Killed(Signal::SIGSYS)),
                    "{who:?} {role:?} {}",
                    attempt.0
                );
            }
        }
    }
}

const CHANGE_MEMORY: Attempt = ("give the guest other memory", |_| {
    plain(libc::SYS_ioctl, [0, of(0x4020_ae46), page(), 0, 0, 0])
});

#[test]
fn memory_of_the_guest_changes_only_where_it_may_grow() {
    let host = Host::new();
    for who in everybody() {
        let prepare = || {
            who.enter(&keep(&host)).unwrap();
            filter::install(Role::MainHotplug).unwrap();
        };
        let end = refusal(&host, prepare, &CHANGE_MEMORY);
        assert!(matches!(end, Some(End::Exited(_))), "standard input is no VM: {end:?}");
    }
}

/// What threads of one kind do and others must not.
const OF_OTHER_ROLES: &[(Role, Attempt)] = &[
    (Role::Main, ("run the guest", |_| plain(libc::SYS_ioctl, [0, of(0xae80), 0, 0, 0, 0]))),
    (Role::Block, ("run the guest", |_| plain(libc::SYS_ioctl, [0, of(0xae80), 0, 0, 0, 0]))),
    (Role::Vcpu, ("make sockets", |_| errno(std::os::unix::net::UnixStream::pair()))),
    (Role::Vcpu, ("wait for events", |_| plain(libc::SYS_epoll_wait, [0; 6]))),
    (Role::Vcpu, ("give memory back", |_| plain(libc::SYS_fallocate, [0, 3, 0, 1, 0, 0]))),
    (Role::Block, ("submit to a ring", |_| plain(libc::SYS_io_uring_enter, [0; 6]))),
    (Role::Block, ("make sockets", |_| errno(std::os::unix::net::UnixStream::pair()))),
    (Role::Block, ("receive a message", |_| plain(libc::SYS_recvmsg, [0, page(), 0, 0, 0, 0]))),
    (Role::Block, ("tell a tap", |_| plain(libc::SYS_ioctl, [0, of(0x4004_54d0), 0, 0, 0, 0]))),
];

#[test]
fn filtered_thread_that_does_the_work_of_others_is_killed() {
    let host = Host::new();
    for (role, attempt) in OF_OTHER_ROLES {
        let end = refusal(&host, || filter::install(*role).unwrap(), attempt);
        assert_eq!(end, Some(End::Killed(Signal::SIGSYS)), "{role:?} {}", attempt.0);
    }
}

#[test]
fn filter_refuses_on_a_host_that_forbids_namespaces() {
    let host = Host::new();
    for attempt in REFUSED_TWICE.iter().chain(REFUSED_BY_FILTER) {
        let prepare = || {
            forbid_namespaces();
            enter(&keep(&host)).unwrap();
            filter::install(Role::Main).unwrap();
        };
        let end = refusal(&host, prepare, attempt);
        assert_eq!(end, Some(End::Killed(Signal::SIGSYS)), "{}", attempt.0);
    }
}

#[test]
fn jail_without_filter_refuses_by_itself() {
    let host = Host::new();
    for who in everybody() {
        for attempt in REFUSED_TWICE {
            let end = refusal(&host, || drop(who.enter(&keep(&host)).unwrap()), attempt);
            assert!(matches!(end, Some(End::Exited(1..200))), "{who:?} {}: {end:?}", attempt.0);
        }
    }
}

fn find(name: &str) -> &'static Attempt {
    let mut all = REFUSED_TWICE.iter().chain(REFUSED_BY_FILTER);
    all.find(|attempt| attempt.0 == name).unwrap()
}

/// Attempts, and with which numbers they may be refused.
type Expected = &'static [(&'static str, &'static [Errno])];

/// One layer alone: what it refuses, and how.
fn assert_layer(who: Who, layer: fn() -> bool, expected: Expected) {
    let host = Host::new();
    let ask = || {
        who.become_self();
        i32::from(!layer())
    };
    if wait(spawn(ask)) != End::Exited(0) {
        eprintln!("SKIPPED: a layer that this host does not offer to {who:?}");
        return;
    }
    for (name, numbers) in expected {
        let prepare = || {
            who.become_self();
            assert!(layer());
        };
        let end = refusal(&host, prepare, find(name));
        let fits = |number: &Errno| end == Some(End::Exited(*number as i32));
        assert!(numbers.iter().any(fits), "{who:?} {name}: {end:?}, not {numbers:?}");
    }
}

#[test]
fn landlock_alone_refuses_files_tcp_and_signals() {
    for who in everybody() {
        let layer = || {
            nix::sys::prctl::set_no_new_privs().unwrap();
            let (files, network, scopes) = landlock::restrict();
            files.holds() && network.holds() && scopes.holds()
        };
        assert_layer(
            who,
            layer,
            &[
                ("open a file", &[Errno::EACCES]),
                ("open /proc/self/mem", &[Errno::EACCES]),
                ("list a folder", &[Errno::EACCES]),
                ("exec", &[Errno::EACCES]),
                ("connect by TCP", &[Errno::EACCES]),
                ("bind a port", &[Errno::EACCES]),
                ("connect to an abstract socket", &[Errno::EPERM]),
                ("kill the parent", &[Errno::EPERM]),
                ("ptrace", &[Errno::EPERM]),
                ("mount", &[Errno::EPERM]),
            ],
        );
    }
}

#[test]
fn namespaces_alone_leave_no_file_and_no_network() {
    for who in everybody() {
        let layer = || {
            let entered = namespaces::enter();
            entered.layer().holds() && namespaces::empty_root(&entered).holds()
        };
        assert_layer(
            who,
            layer,
            &[
                ("open a file", &[Errno::ENOENT, Errno::EACCES]),
                ("open /dev/kvm anew", &[Errno::ENOENT, Errno::EACCES]),
                ("make a file", &[Errno::ENOENT, Errno::EACCES]),
                ("exec", &[Errno::ENOENT, Errno::EACCES]),
                ("connect by TCP", &[Errno::ENETUNREACH]),
                ("connect to an abstract socket", &[Errno::ECONNREFUSED]),
            ],
        );
    }
}

#[test]
fn privileges_alone_are_gone() {
    for who in everybody() {
        let layer = || {
            nix::sys::prctl::set_no_new_privs().unwrap();
            privileges::drop_all(&namespaces::Namespaces::Host(Errno::EPERM)).is_ok()
        };
        assert_layer(
            who,
            layer,
            &[
                ("mount", &[Errno::EPERM]),
                ("chroot", &[Errno::EPERM]),
                ("setns", &[Errno::EPERM]),
                ("become root", &[Errno::EPERM]),
                ("set the host's name", &[Errno::EPERM]),
                ("make a device", &[Errno::EPERM, Errno::EACCES]),
                ("load a module", &[Errno::EPERM, Errno::ENOSYS]),
            ],
        );
    }
}

#[test]
fn roots_jail_alone_protects_its_parent_from_signals_by_its_user() {
    if !everybody().contains(&Who::Root) {
        return;
    }
    let layer = || privileges::drop_all(&namespaces::Namespaces::Host(Errno::EPERM)).is_ok();
    assert_layer(
        Who::Root,
        layer,
        &[("kill the parent", &[Errno::EPERM]), ("ptrace", &[Errno::EPERM])],
    );
}

#[test]
fn refusals_can_be_told_apart_from_the_calls() {
    // The attempts themselves work where nothing refuses them: no test passes for a wrong reason.
    let host = Host::new();
    let free = || ();
    for name in ["open a file", "connect by TCP", "connect to an abstract socket", "bind a port"] {
        assert_eq!(refusal(&host, free, find(name)), None, "{name}");
    }
    for name in ["start a thread", "socket", "map executable memory", "make memory executable"] {
        assert_eq!(refusal(&host, free, find(name)), None, "{name}");
    }
    let program = filter::compile(Role::Main, SeccompAction::Errno(libc::EPROTO as u32)).unwrap();
    let filtered = || seccompiler::apply_filter(&program).unwrap();
    let end = refusal(&host, filtered, find("open a file"));
    assert_eq!(end, Some(End::Exited(libc::EPROTO)));
}
