//! What a container may do to its guest: capabilities, filters, devices, privileged ones.

use std::fs;

use husk_tests::{BUSYBOX, Bed};
use serde_json::json;

/// The line of a `/proc` file that begins with a key, without it.
fn field<'a>(text: &'a str, key: &str) -> &'a str {
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {key} in\n{text}")).trim()
}

fn set(status: &str, name: &str) -> u64 {
    u64::from_str_radix(field(status, name), 16).unwrap()
}

/// linux/capability.h.
const CHOWN: u64 = 1 << 0;
const NET_ADMIN: u64 = 1 << 12;
const SYS_ADMIN: u64 = 1 << 21;
const DEFAULT: u64 = 0xa804_25fb;
const ALL: u64 = (1 << 41) - 1;

const STATUS: &[&str] = &["cat", "/proc/self/status"];

#[test]
fn capabilities_are_added_and_dropped_as_dockers() {
    let bed = Bed::new();
    let bounding = |flags: &[&str]| {
        let status = bed.run(flags, STATUS).ok().out();
        assert_eq!(set(&status, "CapBnd"), set(&status, "CapEff"), "{flags:?}");
        set(&status, "CapBnd")
    };
    let flags = ["--cap-add", "net_admin", "--cap-drop", "CAP_CHOWN"];
    assert_eq!(bounding(&flags), (DEFAULT | NET_ADMIN) & !CHOWN);
    assert_eq!(bounding(&["--cap-drop", "ALL", "--cap-add", "chown"]), CHOWN);
    assert_eq!(bounding(&["--cap-add=all", "--cap-drop=sys_admin"]), ALL & !SYS_ADMIN);
    let output = bed.run(&["--cap-add", "flying"], &["true"]).output();
    output.refused_with(125, &["invalid capability: \"CAP_FLYING\""]);
    // A user who is not root keeps the bounding set alone.
    let status = bed.run(&["-u", "user", "--cap-add", "net_admin"], STATUS).ok().out();
    assert_eq!((set(&status, "CapEff"), set(&status, "CapBnd")), (0, DEFAULT | NET_ADMIN));
}

#[test]
fn further_process_has_the_containers_rights_unless_privileged() {
    let bed = Bed::new();
    bed.husk(&[
        "run",
        "-d",
        "--name",
        "box",
        "--cap-add",
        "net_admin",
        "--security-opt",
        "no-new-privileges",
        "--oom-score-adj",
        "77",
        "--ulimit",
        "nofile=100:200",
        "--group-add",
        "44",
        BUSYBOX,
        "sleep",
        "1000",
    ])
    .ok();
    let exec = |flags: &[&str], script: &str| {
        bed.husk(&[&["exec"], flags, &["box", "sh", "-c", script]].concat()).ok().out()
    };
    let status = exec(&[], "cat /proc/self/status");
    assert_eq!(set(&status, "CapEff"), DEFAULT | NET_ADMIN);
    assert_eq!(field(&status, "NoNewPrivs"), "1");
    assert_eq!(exec(&[], "cat /proc/self/oom_score_adj; ulimit -n; ulimit -Hn"), "77\n100\n200");
    assert!(exec(&[], "id -G").split(' ').any(|group| group == "44"));
    let status = exec(&["--privileged"], "cat /proc/self/status");
    assert_eq!((set(&status, "CapEff"), set(&status, "CapBnd")), (ALL, ALL));
}

#[test]
fn privileged_container_has_its_guest_and_nothing_of_the_host() {
    let bed = Bed::new();
    bed.husk(&["run", "-d", "--privileged", "--name", "box", BUSYBOX, "sleep", "1000"]).ok();
    let sh = |script: &str| bed.exec_sh("box", script).output();
    let status = bed.husk(&["exec", "box", "cat", "/proc/1/status"]).ok().out();
    assert_eq!((set(&status, "CapEff"), set(&status, "CapBnd")), (ALL, ALL));
    assert_eq!(field(&status, "Seccomp"), "0");
    sh("mount -t tmpfs none /mnt 2>/dev/null || { mkdir /mnt && mount -t tmpfs none /mnt; }")
        .code(0);
    sh("mkdir /sys/fs/cgroup/below && rmdir /sys/fs/cgroup/below").code(0);
    sh("echo 1 > /proc/sys/net/ipv4/ip_forward").code(0);
    let options = |path: &str| {
        let script = format!("grep ' {path} ' /proc/self/mounts | head -n 1 | cut -d' ' -f4");
        sh(&script).code(0).out()
    };
    for path in ["/sys", "/sys/fs/cgroup", "/proc"] {
        assert!(options(path).split(',').any(|option| option == "rw"), "{path}");
    }
    // The guest's devices: its two disks, and what its kernel has.
    let names = sh("ls /dev").code(0).out();
    for name in ["null", "vda", "vdb", "kmsg", "fuse", "loop-control", "shm", "pts"] {
        assert!(names.lines().any(|other| other == name), "no {name}: {names}");
    }
    sh("head -c 1 /dev/vda | wc -c").code(0);
    let script = "mknod /dev/my-null c 1 3 && echo x > /dev/my-null && rm /dev/my-null";
    sh(script).code(0);
    let mut term = bed.on_terminal(&["exec", "-it", "box", "tty"]);
    term.expect("/dev/pts/0");
    assert_eq!(term.wait(), 0);
    assert_eq!(bed.inspect("box")["HostConfig"]["Privileged"], true);
    assert_eq!(bed.inspect("box")["HostConfig"]["MaskedPaths"], json!([]));
}

#[test]
fn privileged_container_has_a_terminal_like_any_other() {
    let bed = Bed::new();
    let script = "tty; test -c /dev/console && echo there";
    let words = ["run", "-it", "--rm", "--privileged", BUSYBOX, "sh", "-c", script];
    let mut term = bed.on_terminal(&words);
    term.expect("/dev/pts/0");
    term.expect("there");
    assert_eq!(term.wait(), 0);
}

#[test]
fn profiles_of_seccomp_are_dockers_or_the_runtime_specs() {
    let bed = Bed::new();
    let profile = bed.path("profile.json");
    let option = format!("seccomp={}", profile.display());
    let run = |flags: &[&str]| {
        let flags = [&["--security-opt", option.as_str()], flags].concat();
        bed.sh(&flags, "mkdir /made && echo made || echo refused").ok().out()
    };
    // docker's form: a rule for those who lack a capability.
    let text = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "archMap": [{ "architecture": "SCMP_ARCH_X86_64", "subArchitectures": [] }],
        "syscalls": [{
            "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1,
            "excludes": { "caps": ["CAP_SYS_ADMIN"] },
        }],
    });
    fs::write(&profile, text.to_string()).unwrap();
    assert_eq!(run(&[]), "refused");
    assert_eq!(run(&["--cap-add", "SYS_ADMIN"]), "made");
    let text = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO" }],
    });
    fs::write(&profile, text.to_string()).unwrap();
    assert_eq!(run(&["--cap-add", "SYS_ADMIN"]), "refused");
    let mode = |flags: &[&str]| {
        let status = bed.run(flags, STATUS).ok().out();
        field(&status, "Seccomp").to_owned()
    };
    assert_eq!(mode(&[]), "2");
    assert_eq!(mode(&["--security-opt", "seccomp=builtin"]), "2");
    assert_eq!(mode(&["--security-opt", "seccomp=unconfined"]), "0");
    fs::write(&profile, "{}").unwrap();
    let output = bed.run(&["--security-opt", &option], &["true"]).output();
    output.refused_with(125, &["seccomp profile", "defaultAction"]);
}

#[test]
fn paths_of_the_system_are_open_when_asked_for() {
    let bed = Bed::new();
    let script = "grep -c ' /proc/' /proc/self/mounts";
    assert_eq!(
        bed.sh(&["--security-opt", "systempaths=unconfined"], script).output().code(1).out(),
        "0"
    );
    assert_ne!(bed.sh(&[], script).ok().out(), "0");
}

#[test]
fn groups_are_added_by_number_and_by_name() {
    let bed = Bed::new();
    let groups = |flags: &[&str]| bed.run(flags, &["id", "-G"]).ok().out();
    assert_eq!(groups(&["--group-add", "77"]), "0 77");
    assert_eq!(groups(&["--group-add", "audio", "--group-add", "77"]), "0 29 77");
    assert_eq!(groups(&["-u", "daemon:user", "--group-add", "audio"]), "1000 29");
    let output = bed.run(&["--group-add", "strangers"], &["id"]).output();
    output.refused_with(125, &["unable to find group strangers"]);
}

#[test]
fn devices_of_the_guest_are_given_by_name() {
    let bed = Bed::new();
    let flags = ["--device", "/dev/fuse", "--device", "/dev/net/tun:/dev/tap:rw"];
    let script = "stat -c '%t:%T' /dev/fuse /dev/tap && : < /dev/fuse && : < /dev/tap && \
                  ls /dev/net 2>/dev/null || true";
    assert_eq!(bed.sh(&flags, script).ok().out(), "a:e5\na:c8");
    // Without a rule the node is of no use, with one it is.
    let script = "mknod /dev/f c 10 229; (: < /dev/f) 2>/dev/null && echo opened || echo refused";
    assert_eq!(bed.sh(&[], script).ok().out(), "refused");
    assert_eq!(bed.sh(&["--device-cgroup-rule", "c 10:229 rwm"], script).ok().out(), "opened");
    let output = bed.run(&["--device", "/dev/sda"], &["true"]).output();
    output.refused_with(125, &["/dev/sda: no such device in the guest"]);
}

#[test]
fn rights_are_told_in_dockers_shape() {
    let bed = Bed::new();
    bed.husk(&[
        "create",
        "--name",
        "box",
        "--cap-add",
        "net_admin",
        "--cap-drop",
        "all",
        "--security-opt",
        "no-new-privileges",
        "--group-add",
        "audio",
        "--device",
        "/dev/fuse:/dev/f:r",
        "--device-cgroup-rule",
        "c 1:3 rwm",
        BUSYBOX,
    ])
    .ok();
    let host = bed.inspect("box")["HostConfig"].clone();
    for (key, value) in [
        ("CapAdd", json!(["CAP_NET_ADMIN"])),
        ("CapDrop", json!(["ALL"])),
        ("SecurityOpt", json!(["no-new-privileges"])),
        ("GroupAdd", json!(["audio"])),
        (
            "Devices",
            json!([{
                "PathOnHost": "/dev/fuse", "PathInContainer": "/dev/f", "CgroupPermissions": "r",
            }]),
        ),
        ("DeviceCgroupRules", json!(["c 1:3 rwm"])),
        ("Privileged", json!(false)),
        ("IpcMode", json!("private")),
    ] {
        assert_eq!(host[key], value, "{key}");
    }
}

#[test]
fn what_would_be_the_hosts_is_refused() {
    let bed = Bed::empty();
    for (flags, words) in [
        (&["--pid", "host"][..], &["cannot have the host's PID"][..]),
        (&["--ipc=host"], &["cannot have the host's IPC"]),
        (&["--uts=host"], &["cannot have the host's UTS"]),
        (&["--cgroupns=host"], &["cannot have the host's cgroup"]),
        (&["--network=host"], &["not supported"]),
        (&["--network=bridge"], &["not supported yet"]),
        (&["--userns=private"], &["not supported yet"]),
        (&["--security-opt", "bogus=1"], &["invalid --security-opt"]),
        (&["--device-cgroup-rule", "x"], &["invalid device cgroup format 'x'"]),
        (&["--mount", "type=bind,src=/a,dst=/b"], &["type=bind is not supported yet"]),
        (&["--memory-swappiness", "1"], &["--memory-swappiness is not supported: cgroup v2"]),
        (&["--oom-kill-disable"], &["--oom-kill-disable is not supported: cgroup v2"]),
        (&["--device-read-bps", "/dev/sda:1mb"], &["--device-read-bps is not supported"]),
    ] {
        let words: Vec<&str> = [&["run"], words].concat();
        bed.run(flags, &["true"]).output().refused_with(125, &words);
    }
    bed.assert_nothing_left();
}
