//! The usual default of containers: a list of what is allowed, more of it to those with the
//! capability for it, and EPERM for the rest.

use super::{
    numbers::Abi,
    policy::{Action, Comparison, Operator, Policy, Rule},
};

const EPERM: u16 = 1;
const ENOSYS: u16 = 38;
/// linux/sched.h: the flags of clone(2) that make namespaces, of mounts, cgroup, UTS, IPC, user,
/// pid and network.
const NAMESPACE_FLAGS: u64 = 0x7e02_0000;
/// linux/socket.h. Sockets to the host are the guest's affair.
const AF_VSOCK: u64 = 40;
/// linux/personality.h: Linux with 64 and 32 bits, each also with `UNAME26`, and the question for
/// the present one.
const PERSONALITIES: [u64; 5] = [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// linux/capability.h.
const CAP_DAC_READ_SEARCH: u64 = 1 << 2;
const CAP_SYS_MODULE: u64 = 1 << 16;
const CAP_SYS_RAWIO: u64 = 1 << 17;
const CAP_SYS_CHROOT: u64 = 1 << 18;
const CAP_SYS_PTRACE: u64 = 1 << 19;
const CAP_SYS_PACCT: u64 = 1 << 20;
const CAP_SYS_ADMIN: u64 = 1 << 21;
const CAP_SYS_BOOT: u64 = 1 << 22;
const CAP_SYS_NICE: u64 = 1 << 23;
const CAP_SYS_TIME: u64 = 1 << 25;
const CAP_SYS_TTY_CONFIG: u64 = 1 << 26;
const CAP_SYSLOG: u64 = 1 << 34;
const CAP_PERFMON: u64 = 1 << 38;
const CAP_BPF: u64 = 1 << 39;

/// What nobody needs a capability for, names between blanks, by subject.
const ALLOWED: &[&str] = &[
    // Files.
    "access chmod chown chown32 close close_range copy_file_range creat dup dup2 dup3 faccessat \
     faccessat2 fadvise64 fadvise64_64 fallocate fchmod fchmodat fchmodat2 fchown fchown32 fchownat \
     fcntl fcntl64 fdatasync flock fstat fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate \
     ftruncate64 futimesat getdents getdents64 lchown lchown32 link linkat _llseek lseek lstat lstat64 \
     mkdir mkdirat mknod mknodat name_to_handle_at newfstatat open openat openat2 pread64 preadv \
     preadv2 pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv rename renameat \
     renameat2 rmdir sendfile sendfile64 splice stat stat64 statfs statfs64 statx symlink symlinkat sync \
     sync_file_range syncfs tee truncate truncate64 umask unlink unlinkat utime utimensat \
     utimensat_time64 utimes vmsplice write writev",
    // Extended attributes, watches, folders.
    "chdir fanotify_mark fchdir fgetxattr flistxattr fremovexattr fsetxattr getcwd getxattr getxattrat \
     inotify_add_watch inotify_init inotify_init1 inotify_rm_watch lgetxattr listxattr listxattrat \
     llistxattr lremovexattr lsetxattr removexattr removexattrat setxattr setxattrat",
    // Waiting, pipes, asynchronous input and output.
    "epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait \
     epoll_wait_old eventfd eventfd2 io_cancel io_destroy io_getevents io_pgetevents \
     io_pgetevents_time64 io_setup io_submit ioctl _newselect pipe pipe2 poll ppoll ppoll_time64 pselect6 \
     pselect6_time64 select signalfd signalfd4",
    // Memory.
    "brk cachestat madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mlock mlock2 \
     mlockall mmap mmap2 mprotect mremap mseal msync munlock munlockall munmap pkey_alloc pkey_free \
     pkey_mprotect process_mrelease remap_file_pages",
    // Sockets.
    "accept accept4 bind connect getpeername getsockname getsockopt listen recvfrom recvmmsg \
     recvmmsg_time64 recvmsg sendmmsg sendmsg sendto setsockopt shutdown socketcall socketpair",
    // System V and POSIX communication.
    "ipc mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend \
     mq_timedsend_time64 mq_unlink msgctl msgget msgrcv msgsnd semctl semget semop semtimedop \
     semtimedop_time64 shmat shmctl shmdt shmget",
    // Processes, threads, scheduling.
    "arch_prctl capget capset execve execveat exit exit_group fork futex futex_requeue futex_time64 \
     futex_wait futex_waitv futex_wake get_robust_list get_thread_area getcpu getpgid getpgrp getpid \
     getppid getpriority getrlimit getrusage getsid gettid ioprio_get ioprio_set kill \
     landlock_add_rule landlock_create_ruleset landlock_restrict_self modify_ldt pause pidfd_open \
     pidfd_send_signal prctl prlimit64 process_vm_readv process_vm_writev ptrace restart_syscall rseq \
     sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr sched_getparam \
     sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity \
     sched_setattr sched_setparam sched_setscheduler sched_yield seccomp set_robust_list \
     set_thread_area set_tid_address setpgid setpriority setrlimit setsid tgkill tkill ugetrlimit \
     uretprobe vfork wait4 waitid waitpid",
    // Users and groups.
    "getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getresgid getresgid32 \
     getresuid getresuid32 getuid getuid32 setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 \
     setgroups setgroups32 setregid setregid32 setresgid setresgid32 setresuid setresuid32 setreuid \
     setreuid32 setuid setuid32",
    // Signals.
    "rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend \
     rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo sigaltstack sigprocmask sigreturn",
    // Time, and the machine.
    "adjtimex alarm clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime \
     clock_gettime64 clock_nanosleep clock_nanosleep_time64 getitimer getrandom gettimeofday nanosleep \
     setitimer sysinfo time timer_create timer_delete timer_getoverrun timer_gettime timer_gettime64 \
     timer_settime timer_settime64 timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime \
     timerfd_settime64 times uname",
];

/// What one of some capabilities is needed for.
const CAPABLE: &[(u64, &str)] = &[
    (CAP_DAC_READ_SEARCH, "open_by_handle_at"),
    (
        CAP_SYS_ADMIN,
        "clone clone3 fanotify_init fsconfig fsmount fsopen fspick listmount lookup_dcookie mount \
         mount_setattr move_mount open_tree open_tree_attr quotactl quotactl_fd setdomainname \
         sethostname setns statmount umount umount2 unshare",
    ),
    (CAP_SYS_ADMIN | CAP_BPF, "bpf"),
    (CAP_SYS_ADMIN | CAP_PERFMON, "perf_event_open"),
    (CAP_SYS_ADMIN | CAP_SYSLOG, "syslog"),
    (CAP_SYS_BOOT, "reboot"),
    (CAP_SYS_CHROOT, "chroot"),
    (CAP_SYS_MODULE, "delete_module finit_module init_module"),
    (CAP_SYS_NICE, "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"),
    (CAP_SYS_PACCT, "acct"),
    (CAP_SYS_PTRACE, "kcmp pidfd_getfd process_madvise"),
    (CAP_SYS_RAWIO, "ioperm iopl"),
    (CAP_SYS_TIME, "clock_settime clock_settime64 settimeofday stime"),
    (CAP_SYS_TTY_CONFIG, "vhangup"),
];

/// Capabilities that make a difference.
#[must_use]
pub fn relevant_capabilities() -> u64 {
    CAPABLE.iter().fold(0, |all, (capabilities, _)| all | capabilities)
}

fn allow(names: &str, comparisons: Vec<Comparison>) -> Rule<'_> {
    Rule { names: names.split_whitespace().collect(), action: Action::ALLOW, comparisons }
}

/// The arguments that are compared here are ints: the kernel does not look at their high halves.
fn low_half(operator: Operator, value: u64) -> Comparison {
    Comparison { argument: 0, mask: u64::from(u32::MAX), operator, value }
}

/// The profile of a process with this bounding set of capabilities.
#[must_use]
pub fn policy(bounding: u64) -> Policy<'static> {
    let mut rules: Vec<Rule<'static>> =
        ALLOWED.iter().map(|names| allow(names, Vec::new())).collect();
    rules.push(allow("socket", vec![low_half(Operator::NotEqual, AF_VSOCK)]));
    rules.extend(
        PERSONALITIES.map(|persona| allow("personality", vec![low_half(Operator::Equal, persona)])),
    );
    rules.extend(
        CAPABLE
            .iter()
            .filter(|(capabilities, _)| bounding & capabilities != 0)
            .map(|(_, names)| allow(names, Vec::new())),
    );
    if bounding & CAP_SYS_ADMIN == 0 {
        let no_namespace =
            Comparison { argument: 0, mask: NAMESPACE_FLAGS, operator: Operator::Equal, value: 0 };
        rules.push(allow("clone", vec![no_namespace]));
        // Its flags are in memory, where no program can look: C libraries fall back to clone.
        rules.push(Rule {
            names: vec!["clone3"],
            action: Action::errno(ENOSYS),
            comparisons: Vec::new(),
        });
    }
    Policy { default: Action::errno(EPERM), abis: vec![Abi::X86_64, Abi::X86, Abi::X32], rules }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            compile::{ARCH_X86, ARCH_X86_64, compile},
            machine::{Call, run},
        },
        *,
    };

    fn verdict(bounding: u64, name: &str, args: [u64; 6]) -> u32 {
        let program = compile(&policy(bounding)).unwrap();
        let number = Abi::X86_64.number(name).unwrap();
        run(&program, &Call { arch: ARCH_X86_64, number, args }).unwrap()
    }

    const ALLOW: u32 = 0x7fff_0000;
    const REFUSE: u32 = 0x0005_0001;

    #[test]
    fn every_name_is_one_of_a_system_call() {
        let lists = ALLOWED.iter().copied().chain(CAPABLE.iter().map(|(_, names)| *names));
        for name in lists.flat_map(str::split_whitespace) {
            let known = [Abi::X86_64, Abi::X86, Abi::X32].map(|abi| abi.number(name));
            assert!(known.iter().any(Option::is_some), "{name}");
        }
    }

    #[test]
    fn capabilities_open_what_they_are_for() {
        for (capability, name) in [
            (CAP_SYS_ADMIN, "mount"),
            (CAP_SYS_ADMIN, "unshare"),
            (CAP_SYS_ADMIN, "bpf"),
            (CAP_BPF, "bpf"),
            (CAP_SYS_CHROOT, "chroot"),
            (CAP_SYS_TIME, "clock_settime"),
            (CAP_SYSLOG, "syslog"),
            (CAP_SYS_NICE, "mbind"),
            (CAP_SYS_MODULE, "init_module"),
        ] {
            assert_eq!(verdict(0, name, [0; 6]), REFUSE, "{name}");
            assert_eq!(verdict(capability, name, [0; 6]), ALLOW, "{name}");
        }
        for name in ["keyctl", "add_key", "kexec_load", "pivot_root", "swapon", "io_uring_setup"] {
            assert_eq!(verdict(u64::MAX, name, [0; 6]), REFUSE, "{name}");
        }
        for name in ["read", "ptrace", "futex", "execve"] {
            assert_eq!(verdict(0, name, [0; 6]), ALLOW, "{name}");
        }
    }

    #[test]
    fn arguments_decide_over_clone_socket_and_personality() {
        let first = |value| [value, 0, 0, 0, 0, 0];
        assert_eq!(verdict(0, "clone", first(0x11)), ALLOW);
        assert_eq!(verdict(0, "clone", first(0x1000_0011)), REFUSE);
        assert_eq!(verdict(CAP_SYS_ADMIN, "clone", first(0x1000_0011)), ALLOW);
        assert_eq!(verdict(0, "clone3", first(0)), 0x0005_0026);
        assert_eq!(verdict(CAP_SYS_ADMIN, "clone3", first(0)), ALLOW);
        assert_eq!(verdict(0, "socket", first(2)), ALLOW);
        assert_eq!(verdict(0, "socket", first(40)), REFUSE);
        // The kernel takes this for 40, too.
        assert_eq!(verdict(0, "socket", first(0x1_0000_0028)), REFUSE);
        assert_eq!(verdict(0, "personality", first(0xffff_ffff)), ALLOW);
        assert_eq!(verdict(0, "personality", first(0x0004_0000)), REFUSE);
    }

    #[test]
    fn call_that_is_newer_than_the_profile_is_not_there() {
        let program = compile(&policy(0)).unwrap();
        let give = |arch, number| run(&program, &Call { arch, number, args: [0; 6] }).unwrap();
        assert_eq!(give(ARCH_X86_64, 500), 0x0005_0026);
        assert_eq!(give(ARCH_X86, 500), 0x0005_0026);
        assert_eq!(give(0x1234, 0), 0);
    }

    #[test]
    fn program_is_short() {
        for bounding in [0, 0xa804_25fb, u64::MAX] {
            let length = compile(&policy(bounding)).unwrap().len();
            assert!(length < 700, "{length} instructions");
        }
    }
}
