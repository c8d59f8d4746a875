//! `linux.seccomp`: which system calls a process may make, and who decides about them.

use husk_protocols::error::ErrorKind;
use husk_tests::agent_bed::{Bed, Container, Stdio, process};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;

use crate::{bed_or_skip, execs, output, refusal};

/// A container that makes system calls under these rules; all that they do not name is allowed.
fn calls(calls: &str, syscalls: Value) -> Container {
    under(calls, json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": syscalls}))
}

fn under(calls: &str, seccomp: Value) -> Container {
    let mut args = vec!["probe", "call"];
    args.extend(calls.split(' '));
    Container::new(&args).with("/linux/seccomp", seccomp)
}

/// The same under the default profile, with these capabilities.
fn capable(calls: &str, capabilities: &[&str]) -> Container {
    let mut args = vec!["probe", "call"];
    args.extend(calls.split(' '));
    Container::new(&args).with(
        "/process/capabilities",
        json!({"bounding": capabilities, "effective": capabilities, "permitted": capabilities}),
    )
}

#[test]
fn process_without_a_profile_is_filtered_and_an_unconfined_one_is_not() {
    let bed = bed_or_skip!();
    let shown = Container::new(&["grep", "^Seccomp:", "/proc/self/status"]);
    assert_eq!(output(bed, &shown), "Seccomp:\t2\n");
    let unconfined = shown.with("/linux/seccomp", json!({"defaultAction": "SCMP_ACT_ALLOW"}));
    assert_eq!(output(bed, &unconfined), "Seccomp:\t0\n");
}

#[test]
fn default_profile_refuses_what_containers_do_not_need() {
    let bed = bed_or_skip!();
    for call in
        ["keyctl", "add_key", "bpf", "unshare", "io_uring_setup", "userfaultfd", "kexec_load"]
    {
        assert_eq!(output(bed, &capable(call, &[])), "EPERM\n", "{call}");
    }
    // Its own words, and not the kernel's.
    assert_eq!(output(bed, &capable("clone3", &[])), "ENOSYS\n");
    assert_eq!(output(bed, &capable("future", &[])), "ENOSYS\n");
    assert_eq!(output(bed, &capable("getpid + alarm", &[])), "ok\nok 0\n");
}

#[test]
fn default_profile_looks_at_arguments() {
    let bed = bed_or_skip!();
    let calls = "socket 40 1 0 + socket 1 1 0 + personality 0xffffffff + personality 0x40000";
    assert_eq!(output(bed, &capable(calls, &[])), "EPERM\nok 3\nok 0\nEPERM\n");
}

#[test]
fn default_profile_allows_what_the_capabilities_are_for() {
    let bed = bed_or_skip!();
    // EFAULT and its like come from the call itself.
    let mount = "mount 0 0 0 0 0 + unshare 0x4000000";
    assert_eq!(output(bed, &capable(mount, &["CAP_SYS_ADMIN"])), "EFAULT\nok 0\n");
    assert_eq!(output(bed, &capable(mount, &["CAP_CHOWN"])), "EPERM\nEPERM\n");
    assert_eq!(output(bed, &capable("chroot", &["CAP_SYS_CHROOT"])), "EFAULT\n");
    assert_eq!(output(bed, &capable("chroot", &[])), "EPERM\n");
    assert_eq!(output(bed, &capable("bpf 99 0 0", &["CAP_BPF"])), "EINVAL\n");
}

#[test]
fn file_system_can_be_mounted_with_the_capability_for_it_alone() {
    let bed = bed_or_skip!();
    let script = "mount -t tmpfs none /tmp && grep -c ' /tmp tmpfs' /proc/mounts";
    let sets = json!(["CAP_SYS_ADMIN"]);
    let sets = json!({"bounding": sets, "effective": sets, "permitted": sets});
    let capable = Container::sh(script).with("/process/capabilities", sets);
    assert_eq!(output(bed, &capable), "1\n");
    assert_ne!(bed.run(&Container::sh(script)).unwrap().code, 0);
}

#[test]
fn call_fails_with_the_errno_of_its_rule() {
    let bed = bed_or_skip!();
    let container = calls(
        "getppid + getuid + getpid",
        json!([
            {"names": ["getppid", "no_such_call"], "action": "SCMP_ACT_ERRNO", "errnoRet": 98},
            {"names": ["getuid"], "action": "SCMP_ACT_ERRNO"},
        ]),
    );
    assert_eq!(output(bed, &container), "EADDRINUSE\nEPERM\nok\n");
}

#[test]
fn default_errno_is_that_of_the_profile() {
    let bed = bed_or_skip!();
    // All that a static program needs, and to print.
    let names = json!([
        "execve",
        "brk",
        "arch_prctl",
        "set_tid_address",
        "set_robust_list",
        "rseq",
        "prlimit64",
        "mmap",
        "munmap",
        "mprotect",
        "mremap",
        "poll",
        "rt_sigaction",
        "rt_sigprocmask",
        "sigaltstack",
        "sched_getaffinity",
        "gettid",
        "readlink",
        "getrandom",
        "fstat",
        "ioctl",
        "write",
        "writev",
        "exit_group",
        "exit",
        "futex",
        "madvise",
        "close",
        "read",
        "open",
        "openat",
        "fcntl",
        "getpid",
        "newfstatat",
        "userfaultfd",
        "process_madvise",
    ]);
    let profile = json!({
        "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 99,
        "syscalls": [{"names": names, "action": "SCMP_ACT_ALLOW"}],
    });
    let said = output(bed, &under("getuid + mkdir + getpid + future", profile));
    assert_eq!(said, "EADDRNOTAVAIL\nEADDRNOTAVAIL\nok\nENOSYS\n");
}

#[test]
fn profile_needs_nothing_but_the_exec_for_the_agents_own_sake() {
    let bed = bed_or_skip!();
    // Beside the exec, what it takes to give memory back and to tell that it failed, which it does:
    // or it would not be known that it was tried.
    let many: Vec<Value> = (0..700_u64)
        .map(|value| json!({"index": 0, "value": value, "op": "SCMP_CMP_EQ"}))
        .collect();
    let profile = json!({
        "defaultAction": "SCMP_ACT_KILL_PROCESS",
        "syscalls": [
            {
                "names": ["execve", "brk", "mmap", "munmap", "madvise", "sendmsg", "exit_group"],
                "action": "SCMP_ACT_ALLOW",
            },
            {"names": ["getppid"], "action": "SCMP_ACT_ALLOW", "args": many},
        ],
    });
    let env: Vec<String> = (0..20_000).map(|index| format!("VARIABLE_{index}=x")).collect();
    for no_new_privileges in [true, false] {
        let container = Container::new(&["/bin/garbage"])
            .with("/linux/seccomp", profile.clone())
            .with("/process/env", json!(env))
            .with("/process/noNewPrivileges", json!(no_new_privileges))
            .with("/process/user/uid", json!(1000));
        let refused = refusal(bed.run(&container));
        assert!(refused.message.contains("exec format error"), "{refused:?}");
    }
}

#[test]
fn arguments_are_compared_as_the_operators_say() {
    let bed = bed_or_skip!();
    let verdicts = |op: &str, value: u64, two: u64, args: &[&str]| {
        let rule = json!([{
            "names": ["lseek"], "action": "SCMP_ACT_ERRNO", "errnoRet": 98,
            "args": [{"index": 1, "value": value, "valueTwo": two, "op": op}],
        }]);
        let calls: Vec<String> = args.iter().map(|arg| format!("lseek 99 {arg} 0")).collect();
        let said = output(bed, &self::calls(&calls.join(" + "), rule));
        said.lines().map(|line| line == "EADDRINUSE").collect::<Vec<_>>()
    };
    let big = 0x1_0000_0000;
    assert_eq!(verdicts("SCMP_CMP_EQ", big, 0, &["0", "0x100000000"]), [false, true]);
    assert_eq!(verdicts("SCMP_CMP_NE", big, 0, &["0", "0x100000000"]), [true, false]);
    assert_eq!(verdicts("SCMP_CMP_LT", big, 0, &["0xffffffff", "0x100000000"]), [true, false]);
    assert_eq!(verdicts("SCMP_CMP_LE", big, 0, &["0x100000000", "0x100000001"]), [true, false]);
    assert_eq!(verdicts("SCMP_CMP_GE", big, 0, &["0xffffffff", "0x200000000"]), [false, true]);
    assert_eq!(verdicts("SCMP_CMP_GT", big, 0, &["0x100000000", "0x100000001"]), [false, true]);
    assert_eq!(verdicts("SCMP_CMP_MASKED_EQ", 0xf0, 0x20, &["0x2f", "0x3f"]), [true, false]);
}

#[test]
fn arguments_of_a_rule_must_all_match_and_of_rules_any() {
    let bed = bed_or_skip!();
    let equal =
        |index: u32, value: u32| json!({"index": index, "value": value, "op": "SCMP_CMP_EQ"});
    let rule = |args: Value| json!({"names": ["lseek"], "action": "SCMP_ACT_ERRNO", "errnoRet": 98, "args": args});
    let rules = json!([rule(json!([equal(0, 99), equal(2, 1)])), rule(json!([equal(1, 7)]))]);
    let container = calls("lseek 99 0 1 + lseek 99 0 0 + lseek 98 0 1 + lseek 98 7 0", rules);
    assert_eq!(output(bed, &container), "EADDRINUSE\nEBADF\nEBADF\nEADDRINUSE\n");
}

#[test]
fn killed_process_ends_with_sigsys() {
    let bed = bed_or_skip!();
    for action in
        ["SCMP_ACT_KILL", "SCMP_ACT_KILL_THREAD", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_TRAP"]
    {
        let rule = json!([{"names": ["getppid"], "action": action}]);
        let ended = bed.run(&calls("getpid + getppid", rule)).unwrap();
        assert_eq!((ended.code, ended.stdout.as_str()), (159, ""), "{action}");
    }
}

#[test]
fn logged_call_is_made_and_traced_one_has_no_tracer() {
    let bed = bed_or_skip!();
    let container = calls(
        "getuid + getppid",
        json!([
            {"names": ["getuid"], "action": "SCMP_ACT_LOG"},
            {"names": ["getppid"], "action": "SCMP_ACT_TRACE", "errnoRet": 7},
        ]),
    );
    assert_eq!(output(bed, &container), "ok 0\nENOSYS\n");
}

#[test]
fn calls_of_an_architecture_that_is_not_listed_are_killed() {
    let bed = bed_or_skip!();
    let profile = |architectures: Value| {
        json!({
            "defaultAction": "SCMP_ACT_ALLOW", "architectures": architectures,
            "syscalls": [{"names": ["getpid"], "action": "SCMP_ACT_ERRNO", "errnoRet": 98}],
        })
    };
    let native = profile(json!(["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"]));
    assert_eq!(bed.run(&under("x32-getpid", native)).unwrap().code, 159);
    let both = profile(json!(["SCMP_ARCH_X86_64", "SCMP_ARCH_X32"]));
    assert_eq!(output(bed, &under("x32-getpid", both)), "EADDRINUSE\n");
}

#[test]
fn calls_of_32_bits_have_their_own_numbers() {
    let bed = bed_or_skip!();
    let container = |number: &str, seccomp: Value| {
        Container::new(&["probe", "call32", number]).with("/linux/seccomp", seccomp)
    };
    // getpid, bpf and socketcall of x86.
    assert_eq!(output(bed, &container("20", Value::Null)), "ok\n");
    assert_eq!(output(bed, &container("357", Value::Null)), "EPERM\n");
    let profile = |architectures: Value| {
        json!({
            "defaultAction": "SCMP_ACT_ALLOW", "architectures": architectures,
            "syscalls": [{
                "names": ["getpid", "socket"], "action": "SCMP_ACT_ERRNO", "errnoRet": 98,
            }],
        })
    };
    let native = profile(json!(["SCMP_ARCH_X86_64"]));
    assert_eq!(bed.run(&container("20", native)).unwrap().code, 159);
    let both = profile(json!(["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]));
    assert_eq!(output(bed, &container("20", both.clone())), "EADDRINUSE\n");
    let socket = Container::new(&["probe", "call32", "102", "1"]).with("/linux/seccomp", both);
    assert_eq!(output(bed, &socket), "EADDRINUSE\n");
}

#[test]
fn flags_are_taken_by_the_kernel() {
    let bed = bed_or_skip!();
    let flags = json!([
        "SECCOMP_FILTER_FLAG_TSYNC",
        "SECCOMP_FILTER_FLAG_LOG",
        "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
    ]);
    let profile = json!({
        "defaultAction": "SCMP_ACT_ALLOW", "flags": flags,
        "syscalls": [{"names": ["getuid"], "action": "SCMP_ACT_ERRNO"}],
    });
    assert_eq!(output(bed, &under("getuid", profile)), "EPERM\n");
}

#[test]
fn profile_that_makes_no_sense_is_refused_by_name() {
    let bed = bed_or_skip!();
    for (profile, words) in [
        (json!({"defaultAction": "SCMP_ACT_NO"}), "linux.seccomp.defaultAction"),
        (
            json!({"defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_Z80"]}),
            "linux.seccomp.architectures: \"SCMP_ARCH_Z80\" is unknown",
        ),
        (
            json!({"defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": 1}),
            "linux.seccomp.defaultErrnoRet",
        ),
        (
            json!({"defaultAction": "SCMP_ACT_ALLOW",
                   "syscalls": [{"names": ["write"], "action": "SCMP_ACT_NOTIFY"}]}),
            "linux.seccomp.syscalls[0].action",
        ),
    ] {
        let refused = refusal(bed.run(&under("getpid", profile)));
        assert_eq!(refused.kind, ErrorKind::Invalid);
        assert!(refused.message.contains(words), "{refused:?}");
    }
}

#[test]
fn exec_is_under_the_rules_of_its_container() {
    let bed = bed_or_skip!();
    let rule = json!([{"names": ["getuid"], "action": "SCMP_ACT_ERRNO", "errnoRet": 98}]);
    let container = Container::new(&["sleep", "1000"])
        .with("/linux/seccomp", json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rule}));
    let said = in_running(bed, &container, &[process(&["probe", "call", "getuid"])]);
    assert_eq!(said, ["EADDRINUSE\n"]);
}

#[test]
fn exec_under_the_default_profile_can_do_what_its_own_capabilities_are_for() {
    let bed = bed_or_skip!();
    let plain = process(&["sh", "-c", "mount -t tmpfs none /tmp 2>/dev/null || echo no"]);
    let mut privileged = process(&["sh", "-c", "mount -t tmpfs none /tmp && echo yes"]);
    let all: Vec<String> = caps();
    privileged["capabilities"] = json!({"bounding": all, "effective": all, "permitted": all});
    let said =
        in_running(bed, &Container::new(&["sleep", "1000"]), &[plain.clone(), privileged, plain]);
    assert_eq!(said, ["no\n", "yes\n", "no\n"]);
}

fn caps() -> Vec<String> {
    let more = ["SYS_ADMIN", "NET_ADMIN", "SYS_PTRACE", "SYS_MODULE", "SYS_TIME", "BPF", "PERFMON"];
    more.iter().map(|name| format!("CAP_{name}")).collect()
}

/// What each process prints, in a container that runs meanwhile.
fn in_running(bed: &Bed, container: &Container, processes: &[Value]) -> Vec<String> {
    let ended = execs(bed, container, processes).into_iter().map(Result::unwrap);
    ended.map(|ended| ended.stdout + &ended.stderr).collect()
}

/// A container whose getppid and getuid are decided about at a socket in the guest's folder.
fn notified(socket: &str) -> Value {
    json!({
        "defaultAction": "SCMP_ACT_ALLOW", "listenerPath": socket, "listenerMetadata": "of a case",
        "flags": ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"],
        "syscalls": [{"names": ["getppid", "getuid"], "action": "SCMP_ACT_NOTIFY"}],
    })
}

#[test]
fn listener_decides_about_calls() {
    let bed = bed_or_skip!();
    let decider = Container::new(&["probe", "notify", "/shared/notify.sock", "2"]).mount(json!({
        "destination": "/shared", "type": "bind", "source": "/run/husk/files", "options": ["rbind"],
    }));
    let asked = under("getppid + getuid + getpid", notified("/run/husk/files/notify.sock"))
        .with("/annotations", json!({"a": "b"}));
    bed.block_on(async {
        let mut stdio = bed.open_stdio(false).await.unwrap();
        bed.create(&decider, &stdio).await.unwrap();
        bed.start(&decider.id).await.unwrap();
        let mut greeting = [0; 10];
        stdio.stdout.as_mut().unwrap().read_exact(&mut greeting).await.unwrap();
        let streams = bed.open_stdio(false).await.unwrap();
        let pid = bed.create(&asked, &streams).await.unwrap();
        bed.start(&asked.id).await.unwrap();
        let ended = bed.finish(&asked.id, "", streams, b"").await.unwrap();
        assert_eq!(ended.stdout, "ok 4242\nEADDRINUSE\nok\n", "{ended:?}");
        let decided = bed.finish(&decider.id, "", stdio, b"").await.unwrap();
        let state: Value = serde_json::from_str(decided.stdout.lines().next().unwrap()).unwrap();
        assert_eq!(
            (&state["fds"], &state["metadata"]),
            (&json!(["seccompFd"]), &json!("of a case"))
        );
        assert_eq!((&state["pid"], &state["state"]["pid"]), (&json!(pid), &json!(pid)));
        assert_eq!(state["state"]["id"], json!(asked.id));
        assert_eq!(state["state"]["annotations"], json!({"a": "b"}));
        bed.delete(&asked.id).await.unwrap();
        bed.delete(&decider.id).await.unwrap();
    });
}

#[test]
fn listener_decides_about_calls_of_an_exec_too() {
    let bed = bed_or_skip!();
    let decider = Container::new(&["probe", "notify", "/shared/exec.sock", "0", "1"]).mount(json!({
        "destination": "/shared", "type": "bind", "source": "/run/husk/files", "options": ["rbind"],
    }));
    let asked = Container::new(&["sleep", "1000"])
        .with("/linux/seccomp", notified("/run/husk/files/exec.sock"));
    bed.block_on(async {
        let mut stdio = bed.open_stdio(false).await.unwrap();
        bed.create(&decider, &stdio).await.unwrap();
        bed.start(&decider.id).await.unwrap();
        let mut greeting = [0; 10];
        stdio.stdout.as_mut().unwrap().read_exact(&mut greeting).await.unwrap();
        bed.create(&asked, &Stdio::default()).await.unwrap();
        bed.start(&asked.id).await.unwrap();
        let call = process(&["probe", "call", "getppid"]);
        let ended = bed.run_exec(&asked.id, &call).await.unwrap();
        assert_eq!(ended.stdout, "ok 4242\n", "{ended:?}");
        let decided = bed.finish(&decider.id, "", stdio, b"").await.unwrap();
        let states: Vec<Value> = decided
            .stdout
            .lines()
            .take(2)
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(states[0]["state"]["status"], "created");
        assert_eq!(states[1]["state"]["status"], "running");
        assert_ne!(states[0]["pid"], states[1]["pid"]);
        bed.signal(&asked.id, "", 9, false).await.unwrap();
        bed.wait(&asked.id, "").await.unwrap();
        bed.delete(&asked.id).await.unwrap();
        bed.delete(&decider.id).await.unwrap();
    });
}

#[test]
fn listener_that_is_not_there_is_an_error_with_its_path() {
    let bed = bed_or_skip!();
    let refused = refusal(bed.run(&under("getpid", notified("/run/husk/files/nobody.sock"))));
    assert_eq!(refused.kind, ErrorKind::Invalid);
    assert!(refused.message.contains("linux.seccomp.listenerPath"), "{refused:?}");
    assert!(refused.message.contains("nobody.sock"), "{refused:?}");
}

#[test]
fn filter_leaves_no_capability_behind() {
    let bed = bed_or_skip!();
    // Loading it needed CAP_SYS_ADMIN.
    let container = Container::new(&["grep", "-E", "^Cap(Prm|Eff|Inh|Amb)", "/proc/self/status"]);
    for uid in [0, 1000] {
        let none = container
            .clone()
            .with("/process/capabilities", json!({}))
            .with("/process/user/uid", json!(uid));
        let said = output(bed, &none);
        assert!(said.lines().all(|line| line.ends_with("0000000000000000")), "{uid}: {said}");
    }
}
