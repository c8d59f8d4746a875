//! What a container takes for its machine and network: names, kernel settings, file systems,
//! labels.

use std::fs;

use husk_tests::{BUSYBOX, Bed};
use serde_json::json;

use crate::life::await_log;

#[test]
fn names_and_name_servers_are_the_users() {
    let bed = Bed::new();
    let flags = [
        "--dns",
        "10.0.0.1",
        "--dns",
        "::1",
        "--dns-search",
        "a.example",
        "--dns-search",
        "b.example",
        "--dns-option",
        "ndots:2",
        "--add-host",
        "db:10.0.0.7",
        "--add-host",
        "six=[fe80::1]",
        "-h",
        "web",
        "--domainname",
        "example.com",
    ];
    let script = "cat /etc/resolv.conf; hostname; cat /proc/sys/kernel/domainname; cat /etc/hosts";
    let output = bed.sh(&flags, script).ok().out();
    let wanted = "nameserver 10.0.0.1\nnameserver ::1\nsearch a.example b.example\n\
                  options ndots:2\nweb\nexample.com\n";
    assert!(output.starts_with(wanted), "{output}");
    for line in ["10.0.0.7\tdb", "fe80::1\tsix", "127.0.1.1\tweb.example.com web"] {
        assert!(output.lines().any(|other| other == line), "{output}");
    }
    for (flags, words) in [
        (&["--dns", "x"][..], "x is not an ip address"),
        (&["--add-host", "db"], "bad format for add-host"),
        (&["--add-host", "db:x"], "invalid IP address in add-host"),
        (&["--dns-search", "a b"], "not a valid domain"),
    ] {
        bed.run(flags, &["true"]).output().refused_with(125, &["run", words]);
    }
}

#[test]
fn kernel_settings_are_the_containers_own() {
    let bed = Bed::new();
    let flags = ["--sysctl", "net.core.somaxconn=77", "--sysctl", "kernel.shmmni=99"];
    let script = "cat /proc/sys/net/core/somaxconn /proc/sys/kernel/shmmni";
    assert_eq!(bed.sh(&flags, script).ok().out(), "77\n99");
    // docker's: whoever is not root may use low ports.
    let script = "cat /proc/sys/net/ipv4/ip_unprivileged_port_start";
    assert_eq!(bed.sh(&[], script).ok().out(), "0");
    let output = bed.run(&["--sysctl", "vm.swappiness=1"], &["true"]).output();
    output.refused_with(125, &["vm.swappiness", "use --guest-sysctl"]);
}

#[test]
fn kernel_settings_of_the_guest_are_made_before_the_container() {
    let bed = Bed::new();
    let flags = ["--guest-sysctl", "vm.swappiness=7", "--guest-sysctl", "fs/file-max=5000"];
    let script = "cat /proc/sys/vm/swappiness /proc/sys/fs/file-max";
    assert_eq!(bed.sh(&flags, script).ok().out(), "7\n5000");
    let output = bed.run(&["--guest-sysctl", "vm.no_such_knob=1"], &["true"]).output();
    output.refused_with(125, &["vm.no_such_knob"]);
    bed.husk(&[&["create", "--name", "box"], &flags[..2], &[BUSYBOX]].concat()).ok();
    assert_eq!(bed.inspect("box")["Husk"]["GuestSysctls"], json!({ "vm.swappiness": "7" }));
}

#[test]
fn words_for_the_kernel_are_on_its_command_line() {
    let bed = Bed::new();
    let flags = ["--kernel-arg", "husk_test=1", "--kernel-arg", "nothing"];
    let line = bed.run(&flags, &["cat", "/proc/cmdline"]).ok().out();
    assert!(line.contains(" husk_test=1 nothing"), "{line}");
    bed.run(&["--kernel-arg", "a b"], &["true"]).output().refused_with(125, &["--kernel-arg"]);
}

#[test]
fn file_systems_in_memory_are_mounted_by_both_flags() {
    let bed = Bed::new();
    let flags = [
        "--mount",
        "type=tmpfs,target=/one,tmpfs-size=1m,tmpfs-mode=1770",
        "--mount",
        "type=tmpfs,dst=/two,readonly",
        "--tmpfs",
        "/three:exec,size=2m",
    ];
    let script = "stat -c %a /one; df -k /one /three | awk 'NR>1 {print $2}'; touch /one/x && \
                  ! touch /two/x 2>/dev/null && \
                  printf '#!/bin/sh\necho ran\n' > /three/s && chmod +x /three/s && /three/s";
    assert_eq!(bed.sh(&flags, script).ok().out(), "1770\n1024\n2048\nran");
    bed.husk(&[&["create", "--name", "box"], &flags[..2], &[BUSYBOX]].concat()).ok();
    let inspect = bed.inspect("box");
    assert_eq!(
        inspect["HostConfig"]["Mounts"],
        json!([{
            "Type": "tmpfs", "Target": "/one",
            "TmpfsOptions": { "SizeBytes": 1 << 20, "Mode": 0o1770 },
        }])
    );
    assert_eq!(inspect["Mounts"][0]["Destination"], "/one");
    let twice = ["--tmpfs", "/x", "--mount", "type=tmpfs,target=/x/"];
    bed.run(&twice, &["true"]).output().refused_with(125, &["Duplicate mount point: /x"]);
}

#[test]
fn labels_are_kept_shown_and_filtered_by() {
    let bed = Bed::new();
    let file = bed.path("labels");
    fs::write(&file, "# of a file\nfrom=file\nboth=file\n").unwrap();
    let file = file.display().to_string();
    bed.husk(&[
        "create",
        "--name",
        "one",
        "--label-file",
        &file,
        "-l",
        "both=flag",
        "--label",
        "bare",
        "--annotation",
        "org.example=x",
        BUSYBOX,
    ])
    .ok();
    bed.husk(&["create", "--name", "two", "-l", "both=other", BUSYBOX]).ok();
    let inspect = bed.inspect("one");
    assert_eq!(inspect["Config"]["Labels"], json!({ "from": "file", "both": "flag", "bare": "" }));
    assert_eq!(inspect["HostConfig"]["Annotations"], json!({ "org.example": "x" }));
    let names = |filter: &str| {
        let words = ["ps", "-a", "--filter", filter, "--format", "{{.Names}}"];
        bed.husk(&words).ok().out()
    };
    assert_eq!(names("label=bare"), "one");
    assert_eq!(names("label=both=other"), "two");
    assert_eq!(names("label=both"), "two\none");
    assert_eq!(names("label=nope"), "");
    let labels = bed.husk(&["ps", "-a", "-f", "name=two", "--format", "{{.Labels}}"]).ok().out();
    assert_eq!(labels, "both=other");
}

#[test]
fn stop_uses_the_containers_own_signal_and_patience() {
    let bed = Bed::new();
    let script = "trap 'exit 3' USR1; echo ready; while :; do sleep 0.1; done";
    bed.husk(&[
        "run",
        "-d",
        "--name",
        "box",
        "--stop-signal",
        "SIGUSR1",
        "--stop-timeout",
        "60",
        BUSYBOX,
        "sh",
        "-c",
        script,
    ])
    .ok();
    assert_eq!(bed.inspect("box")["Config"]["StopTimeout"], 60);
    await_log(&bed, "box", "ready");
    bed.husk(&["stop", "box"]).ok();
    assert_eq!(bed.inspect("box")["State"]["ExitCode"], 3);
    // Deaf to the signal: killed once its own patience is over.
    let deaf = "trap '' TERM; while :; do sleep 0.1; done";
    let words = ["run", "-d", "--name", "deaf", "--stop-timeout", "0", BUSYBOX, "sh", "-c", deaf];
    bed.husk(&words).ok();
    bed.husk(&["stop", "deaf"]).ok();
    assert_eq!(bed.inspect("deaf")["State"]["ExitCode"], 137);
}

#[test]
fn what_there_is_already_may_be_asked_for() {
    let bed = Bed::new();
    let flags = [
        "--network",
        "none",
        "--ipc",
        "private",
        "--pid",
        "private",
        "--platform",
        "linux/amd64",
        "--pull",
        "never",
        "-q",
        "--userns",
        "host",
    ];
    assert_eq!(bed.run(&flags, &["echo", "fine"]).ok().out(), "fine");
    for (flags, words) in [
        (&["--pull", "always"][..], "not supported yet"),
        (&["--platform", "linux/arm64"], "linux/arm64"),
    ] {
        bed.run(flags, &["true"]).output().refused_with(125, &["run", words]);
    }
}
