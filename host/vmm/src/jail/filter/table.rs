//! The system calls that threads of the VMM make once the guest runs, and why. What is not here
//! kills the process.
//!
//! A check looks at one argument, counted from 0, as the kernel's own function has it. Nothing here
//! opens, creates, connects, binds, starts or becomes anything: whatever a thread works on is a
//! descriptor that was there before, came over a socket, or is one end of a pair.

use kvm_bindings::{KVMIO, kvm_regs, kvm_userspace_memory_region};

/// A call that may be made.
#[derive(Debug)]
pub struct Call {
    /// Its number. The kernel's `arch/x86/entry/syscalls/syscall_64.tbl`.
    pub number: i64,
    /// One of these must hold whole. Empty: for any arguments.
    pub when: &'static [&'static [Check]],
}

/// What one argument must be.
#[derive(Debug)]
pub struct Check {
    /// Which argument, from 0.
    pub argument: u8,
    /// What is true of it.
    pub is: Is,
}

/// What is true of an argument. Numbers are what the kernel reads as 32 bits, or of which only the
/// low ones mean anything.
#[derive(Debug)]
pub enum Is {
    /// This number.
    Equal(u64),
    /// None of these bits are set.
    Without(u64),
    /// All of these bits are set.
    With(u64),
    /// The process's own id.
    OwnProcess,
    /// No address.
    Null,
}

const fn any(number: libc::c_long) -> Call {
    Call { number, when: &[] }
}

const fn when(number: libc::c_long, when: &'static [&'static [Check]]) -> Call {
    Call { number, when }
}

#[allow(clippy::cast_sign_loss, reason = "constants of C, none of them negative")]
const fn equal(argument: u8, value: libc::c_int) -> Check {
    Check { argument, is: Is::Equal(value as u64) }
}

#[allow(clippy::cast_sign_loss, reason = "constants of C, none of them negative")]
const fn without(argument: u8, bits: libc::c_int) -> Check {
    Check { argument, is: Is::Without(bits as u64) }
}

#[allow(clippy::cast_sign_loss, reason = "constants of C, none of them negative")]
const fn with(argument: u8, bits: libc::c_int) -> Check {
    Check { argument, is: Is::With(bits as u64) }
}

const fn own_process(argument: u8) -> Check {
    Check { argument, is: Is::OwnProcess }
}

const fn null(argument: u8) -> Check {
    Check { argument, is: Is::Null }
}

const fn request(number: libc::Ioctl) -> Check {
    Check { argument: 1, is: Is::Equal(number) }
}

/// linux/kvm.h.
const KVM_RUN: libc::Ioctl = libc::_IO(KVMIO, 0x80);
const KVM_GET_REGS: libc::Ioctl = libc::_IOR::<kvm_regs>(KVMIO, 0x81);
const KVM_SET_USER_MEMORY_REGION: libc::Ioctl =
    libc::_IOW::<kvm_userspace_memory_region>(KVMIO, 0x46);
const KVM_KVMCLOCK_CTRL: libc::Ioctl = libc::_IO(KVMIO, 0xad);
/// linux/if_tun.h.
const TUNSETOFFLOAD: libc::Ioctl = libc::_IOW::<libc::c_uint>(b'T' as u32, 208);
/// A stream as the guest's connections get it. The monitor holds the other end, and the VMM may
/// hold that, too: nothing here makes it block, for whoever reads it counts on that.
const STREAM: libc::c_int = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
/// fallocate(2): files keep their size.
const PUNCH_HOLE: libc::c_int = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
const ZERO_RANGE: libc::c_int = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;

/// What the allocator, locks and the end of a thread or of the process come to.
pub const EVERY_THREAD: &[Call] = &[
    // Events, streams, frames, and what a panic says on standard error; the C library's last words
    // come in parts.
    any(libc::SYS_read),
    any(libc::SYS_write),
    any(libc::SYS_writev),
    any(libc::SYS_close),
    // A debug build's standard library looks whether what it closes is open.
    when(libc::SYS_fcntl, &[&[equal(1, libc::F_GETFD)]]),
    // The allocator: memory of no file, never to be executed, and of the process's own, which is
    // what its limit counts (RLIMIT_DATA): not shared, no stack that grows, no huge page of the
    // host's pool.
    any(libc::SYS_brk),
    any(libc::SYS_munmap),
    when(
        libc::SYS_mmap,
        &[&[
            without(2, libc::PROT_EXEC),
            with(3, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS),
            without(3, libc::MAP_GROWSDOWN | libc::MAP_HUGETLB),
        ]],
    ),
    when(libc::SYS_mprotect, &[&[without(2, libc::PROT_EXEC)]]),
    when(libc::SYS_mremap, &[&[equal(3, libc::MREMAP_MAYMOVE)]]),
    // The same, and a thread's stack at its end.
    when(libc::SYS_madvise, &[&[equal(2, libc::MADV_DONTNEED)], &[equal(2, libc::MADV_FREE)]]),
    // Locks, channels, joins.
    any(libc::SYS_futex),
    any(libc::SYS_sched_yield),
    // Clocks, where the vDSO cannot tell the time.
    any(libc::SYS_clock_gettime),
    // Seeds of hash maps and of the allocator; the entropy device.
    any(libc::SYS_getrandom),
    // A signal that interrupts KVM_RUN arrives, and its handler returns.
    any(libc::SYS_rt_sigreturn),
    any(libc::SYS_rt_sigprocmask),
    // What was interrupted by SIGSTOP goes on.
    any(libc::SYS_restart_syscall),
    // abort(3), and a kick to a virtual CPU's thread: to no other process.
    any(libc::SYS_getpid),
    any(libc::SYS_gettid),
    when(libc::SYS_tgkill, &[&[own_process(0)]]),
    // The end of a thread frees the stack of its signals.
    any(libc::SYS_sigaltstack),
    any(libc::SYS_exit),
    any(libc::SYS_exit_group),
];

/// What activation and reset of devices come to: on the first thread, and on that of the virtual
/// CPU that asks for them.
pub const DEVICES: &[Call] = &[
    // Disks: requests by io_uring, which was set up before, and are waited for at reset. The filter
    // does not see what a ring is asked for: the ring itself refuses all but what disks need,
    // io_uring_register(2), IORING_REGISTER_RESTRICTIONS.
    any(libc::SYS_io_uring_enter),
    // The features that the driver took, told to the tap.
    when(libc::SYS_ioctl, &[&[request(TUNSETOFFLOAD)]]),
    // The vhost-user file server, and vsock's streams that end: sockets that are connected. Without
    // an address, so that no other could be reached by one that is not; without urgent bytes, which
    // nobody needs and which were a way into the kernel.
    when(libc::SYS_sendmsg, &[&[without(2, libc::MSG_OOB)]]),
    when(libc::SYS_recvmsg, &[&[without(2, libc::MSG_OOB)]]),
    when(libc::SYS_recvfrom, &[&[without(3, libc::MSG_OOB), null(4), null(5)]]),
    any(libc::SYS_shutdown),
];

/// The first thread.
pub const MAIN: &[Call] = &[
    // The event loop. Sources come and go with vsock's connections.
    any(libc::SYS_epoll_wait),
    any(libc::SYS_epoll_pwait),
    any(libc::SYS_epoll_ctl),
    // A pause, which waits for the requests of disks.
    any(libc::SYS_poll),
    // Rate limits.
    any(libc::SYS_timerfd_settime),
    // Memory that the balloon and virtio-mem give back.
    when(libc::SYS_fallocate, &[&[equal(1, PUNCH_HOLE)]]),
    // A connection that the guest asks for: one end is sent to whoever listens.
    when(libc::SYS_socketpair, &[&[equal(0, libc::AF_UNIX), equal(1, STREAM)]]),
    when(libc::SYS_sendto, &[&[without(3, libc::MSG_OOB), null(4), equal(5, 0)]]),
    // Statistics: its own numbers, from a file of /proc that is open.
    any(libc::SYS_lseek),
];

/// The first thread, if hot-plug memory comes and goes.
pub const HOTPLUG: &[Call] = &[when(libc::SYS_ioctl, &[&[request(KVM_SET_USER_MEMORY_REGION)]])];

/// A virtual CPU's thread.
pub const VCPU: &[Call] = &[
    when(
        libc::SYS_ioctl,
        &[
            &[request(KVM_RUN)],
            // The guest's watchdogs are told that it was paused.
            &[request(KVM_KVMCLOCK_CTRL)],
            // Where a guest was that went astray.
            &[request(KVM_GET_REGS)],
        ],
    ),
    // The console's bytes go together, or when their time is up.
    any(libc::SYS_timerfd_settime),
];

/// A worker that reads and writes disks.
pub const BLOCK: &[Call] = &[
    any(libc::SYS_preadv),
    any(libc::SYS_pwritev),
    any(libc::SYS_fdatasync),
    // Discard, write zeroes.
    when(libc::SYS_fallocate, &[&[equal(1, PUNCH_HOLE)], &[equal(1, ZERO_RANGE)]]),
];
