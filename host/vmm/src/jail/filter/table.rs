//! The system calls that threads of the VMM make once the guest runs, and why. What is not here
//! kills the process.
//!
//! A check looks at one argument, counted from 0, as the kernel's own function has it. Nothing here
//! opens, creates, connects, binds, starts or becomes anything: whatever a thread works on is a
//! descriptor that was there before, came over a socket, or is one end of a pair.

use kvm_bindings::{KVMIO, kvm_clock_data, kvm_mp_state, kvm_regs, kvm_sregs};

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

/// What is true of an argument's low 32 bits.
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

const fn request(number: libc::Ioctl) -> Check {
    Check { argument: 1, is: Is::Equal(number) }
}

/// linux/kvm.h: of a virtual CPU.
const KVM_RUN: libc::Ioctl = libc::_IO(KVMIO, 0x80);
const KVM_GET_REGS: libc::Ioctl = libc::_IOR::<kvm_regs>(KVMIO, 0x81);
const KVM_GET_SREGS: libc::Ioctl = libc::_IOR::<kvm_sregs>(KVMIO, 0x83);
const KVM_GET_MP_STATE: libc::Ioctl = libc::_IOR::<kvm_mp_state>(KVMIO, 0x98);
const KVM_KVMCLOCK_CTRL: libc::Ioctl = libc::_IO(KVMIO, 0xad);
/// linux/kvm.h: of the VM.
const KVM_SET_CLOCK: libc::Ioctl = libc::_IOW::<kvm_clock_data>(KVMIO, 0x7b);
const KVM_GET_CLOCK: libc::Ioctl = libc::_IOR::<kvm_clock_data>(KVMIO, 0x7c);
/// linux/if_tun.h.
const TUNSETOFFLOAD: libc::Ioctl = libc::_IOW::<libc::c_uint>(b'T' as u32, 208);
const TUNSETVNETHDRSZ: libc::Ioctl = libc::_IOW::<libc::c_int>(b'T' as u32, 216);
/// asm-generic/ioctls.h: how the standard library makes a socket non-blocking.
const FIONBIO: libc::Ioctl = 0x5421;

/// What the allocator, locks and the end of a thread or of the process come to.
pub const EVERY_THREAD: &[Call] = &[
    // Events, streams, and what a panic says on standard error.
    any(libc::SYS_read),
    any(libc::SYS_write),
    any(libc::SYS_writev),
    any(libc::SYS_close),
    // A debug build's standard library looks whether what it closes is open.
    when(libc::SYS_fcntl, &[&[equal(1, libc::F_GETFD)]]),
    // The allocator: memory of no file, never to be executed.
    any(libc::SYS_brk),
    any(libc::SYS_munmap),
    when(libc::SYS_mmap, &[&[without(2, libc::PROT_EXEC), with(3, libc::MAP_ANONYMOUS)]]),
    when(libc::SYS_mprotect, &[&[without(2, libc::PROT_EXEC)]]),
    when(libc::SYS_mremap, &[&[equal(3, libc::MREMAP_MAYMOVE)]]),
    // The same, and a thread's stack at its end.
    when(libc::SYS_madvise, &[&[equal(2, libc::MADV_DONTNEED)], &[equal(2, libc::MADV_FREE)]]),
    // Locks, channels, joins. FUTEX_CMP_REQUEUE and the like come with condition variables.
    any(libc::SYS_futex),
    any(libc::SYS_sched_yield),
    // Clocks, where the vDSO cannot tell the time.
    any(libc::SYS_clock_gettime),
    any(libc::SYS_gettimeofday),
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

/// What devices do, on whichever thread the transport calls them.
pub const DEVICES: &[Call] = &[
    // Disks: requests by io_uring, which was set up before. The filter does not see what a ring is
    // asked for: the ring itself refuses all but what disks need, io_uring_register(2),
    // IORING_REGISTER_RESTRICTIONS.
    any(libc::SYS_io_uring_enter),
    any(libc::SYS_pread64),
    any(libc::SYS_pwrite64),
    any(libc::SYS_preadv),
    any(libc::SYS_pwritev),
    any(libc::SYS_fdatasync),
    // Discard, write zeroes; memory that the balloon or virtio-mem gives back.
    when(
        libc::SYS_fallocate,
        &[
            &[equal(1, libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE)],
            &[equal(1, libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE)],
        ],
    ),
    when(libc::SYS_madvise, &[&[equal(2, libc::MADV_REMOVE)]]),
    // Network: frames in parts.
    any(libc::SYS_readv),
    // The features that the driver took, told to the tap.
    when(libc::SYS_ioctl, &[&[request(TUNSETOFFLOAD)], &[request(TUNSETVNETHDRSZ)]]),
    // Streams of vsock, the vhost-user file server: sockets that are connected. Without an address,
    // so that a datagram socket could reach nobody else either.
    any(libc::SYS_recvmsg),
    any(libc::SYS_sendmsg),
    when(libc::SYS_recvfrom, &[&[equal(4, 0), equal(5, 0)]]),
    when(libc::SYS_sendto, &[&[equal(4, 0), equal(5, 0)]]),
    any(libc::SYS_shutdown),
    when(libc::SYS_ioctl, &[&[request(FIONBIO)]]),
    // A connection that the guest asks for: one end is sent to whoever listens.
    when(
        libc::SYS_socketpair,
        &[&[equal(0, libc::AF_UNIX), equal(1, libc::SOCK_STREAM | libc::SOCK_CLOEXEC)]],
    ),
    // Sources come and go with connections; a device may have an epoll of its own.
    any(libc::SYS_epoll_ctl),
    any(libc::SYS_epoll_wait),
    any(libc::SYS_epoll_pwait),
    // Rate limits.
    any(libc::SYS_timerfd_settime),
];

/// The first thread.
pub const MAIN: &[Call] = &[
    any(libc::SYS_poll),
    any(libc::SYS_ppoll),
    // Descriptors that come over the control socket.
    when(
        libc::SYS_fcntl,
        &[
            &[equal(1, libc::F_GETFL)],
            &[equal(1, libc::F_SETFL), without(2, libc::O_ASYNC)],
            &[equal(1, libc::F_SETFD)],
        ],
    ),
    // Statistics: its own numbers, from a file of /proc that is open.
    any(libc::SYS_lseek),
    any(libc::SYS_getrusage),
    // The guest's clock stands still while it is paused.
    when(libc::SYS_ioctl, &[&[request(KVM_GET_CLOCK)], &[request(KVM_SET_CLOCK)]]),
];

/// A virtual CPU's thread.
pub const VCPU: &[Call] = &[when(
    libc::SYS_ioctl,
    &[
        &[request(KVM_RUN)],
        // The guest's watchdogs are told that it was paused.
        &[request(KVM_KVMCLOCK_CTRL)],
        // What a guest that crashed looked like.
        &[request(KVM_GET_REGS)],
        &[request(KVM_GET_SREGS)],
        &[request(KVM_GET_MP_STATE)],
    ],
)];

/// A worker that reads and writes disks.
pub const BLOCK: &[Call] = &[
    any(libc::SYS_pread64),
    any(libc::SYS_pwrite64),
    any(libc::SYS_preadv),
    any(libc::SYS_pwritev),
    any(libc::SYS_fdatasync),
    when(
        libc::SYS_fallocate,
        &[
            &[equal(1, libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE)],
            &[equal(1, libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE)],
        ],
    ),
];
