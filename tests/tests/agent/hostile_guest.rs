//! What lies between a container and the guest: names that change while a mount is made, a /proc
//! that is none, key rings, the guest's ports, the agent's own folders in /proc, disks that are
//! full.

use std::path::Path;

use husk_protocols::port::{CONSOLE_PORT, GUEST_CID, STREAM_PORT};
use husk_tests::agent_bed::{Bed, Container, DISK, HOSTILE_IMAGE, Options, process};
use serde_json::{Value, json};

use crate::{bed_or_skip, hostile_image::Clean, output, said};

/// What a container is not hindered by that has all capabilities of its user.
fn with_capabilities(container: Container, names: &[&str]) -> Container {
    let mut all = container.spec["process"]["capabilities"]["bounding"].as_array().unwrap().clone();
    all.extend(names.iter().map(|name| json!(format!("CAP_{name}"))));
    container
        .with("/process/capabilities", json!({"bounding": all, "effective": all, "permitted": all}))
}

fn bind(source: &str, destination: &str) -> Value {
    json!({"destination": destination, "source": source, "options": ["rbind", "rw"]})
}

/// Sees all mounts of the agent, and none of a container's.
fn mounts_of_the_agent() -> Container {
    with_capabilities(Container::sh("cat /proc/1/mounts").without_namespace("pid"), &["SYS_PTRACE"])
}

/// Leaves nothing of a folder of the guest.
struct Shared<'a>(&'a Bed, &'static str);

impl<'a> Shared<'a> {
    fn new(bed: &'a Bed, name: &'static str, script: &str) -> Self {
        let make = format!("mkdir -p /guest/{name}; cd /guest/{name}; {script}");
        output(bed, &Container::sh(&make).mount(bind("/run", "/guest")));
        Self(bed, name)
    }
}

impl Drop for Shared<'_> {
    fn drop(&mut self) {
        let remove = format!("rm -rf /guest/{}", self.1);
        let _ = self.0.run(&Container::sh(&remove).mount(bind("/run", "/guest")));
    }
}

#[test]
fn mount_point_that_becomes_a_link_meanwhile_stays_in_the_root() {
    let bed = bed_or_skip!();
    // CVE-2021-30465: the folder and the link change places while others mount below.
    for target in ["/", "/proc", "../../../../..", "/proc/1/root", "/run", "/proc/self/fd"] {
        let make = format!("mkdir -p place/race-inside; ln -s {target} link");
        let shared = Shared::new(bed, "race", &make);
        let source = format!("/run/{}", shared.1);
        let attack = Container::new(&["probe", "exchange", "/shared/place", "/shared/link"])
            .mount(bind(&source, "/shared"));
        let racer = bed.block_on(async { bed.up(&attack).await.unwrap() });
        for _ in 0..15 {
            let victim = Container::sh("cut -d' ' -f1,2 /proc/mounts | grep ^race-")
                .mount(bind(&source, "/shared"))
                .mount(json!({"destination": "/shared/place/race-inside", "type": "tmpfs",
                              "source": "race-mark"}));
            // Refused, or mounted where it is seen.
            if let Ok(ended) = bed.run(&victim) {
                assert_eq!(ended.stdout.lines().count(), 1, "{target}: {ended:?}");
                let place = ended.stdout.trim_end().trim_start_matches("race-mark ");
                assert!(place.ends_with("/race-inside"), "{target}: {ended:?}");
            }
        }
        bed.block_on(bed.down(&attack));
        drop(racer);
    }
    assert!(!output(bed, &mounts_of_the_agent()).contains("race-mark"));
    // Nor was a folder made there.
    let look = Container::sh("ls /guest /guest/run | grep race; ls -d /guest/run/husk; :")
        .mount(bind("/", "/guest"));
    assert_eq!(output(bed, &look), "/guest/run/husk\n");
}

/// Without a /proc but what the image has.
fn without_proc(container: Container) -> Container {
    container
        .with("/mounts", json!([]))
        .with("/linux/maskedPaths", json!([]))
        .with("/linux/readonlyPaths", json!([]))
}

/// What the kernel's own /proc says of the container and of its first process.
async fn real_proc(bed: &Bed, container: &Container, pid: u32) -> String {
    let script =
        format!("echo ready; cat /proc/sys/kernel/shmmni /proc/{pid}/oom_score_adj; sleep 1000");
    let look = Container::sh(&script).without_namespace("pid").joining("ipc", container);
    let mut stdio = bed.up(&look).await.unwrap();
    let mut told = [0; 9];
    let out = stdio.stdout.as_mut().unwrap();
    tokio::io::AsyncReadExt::read_exact(out, &mut told).await.unwrap();
    bed.down(&look).await;
    String::from_utf8_lossy(&told).into_owned()
}

#[test]
fn proc_of_the_image_takes_no_setting_from_the_kernels() {
    let bed = bed_or_skip!();
    let _turn = crate::turn_at_the_disk();
    let _clean = Clean(bed);
    // CVE-2025-52881.
    let fake = "mkdir -p /proc/sys/kernel /proc/self/attr /proc/1 /proc/thread-self; cd /proc; \
                for f in sys/kernel/shmmni self/oom_score_adj self/attr/exec self/attr/current \
                self/uid_map self/setgroups 1/oom_score_adj; do echo fake > $f; done; \
                ln -s ../self/attr thread-self/attr";
    output(bed, &without_proc(Container::sh(fake)).disk(DISK));
    let idle = "echo ready; sleep 1000";
    let roots = [
        Container::sh(idle).disk(DISK),
        Container::sh(idle).disk(DISK).user_namespace(),
        // Its /proc is a link, and so is its /attr.
        Container::sh(idle).image(HOSTILE_IMAGE),
        Container::sh(idle).image(HOSTILE_IMAGE).user_namespace(),
    ];
    for container in roots {
        let container = without_proc(container)
            .with("/linux/sysctl", json!({"kernel.shmmni": "1234"}))
            .with("/process/oomScoreAdj", json!(123))
            .with("/process/apparmorProfile", json!("unconfined"));
        bed.block_on(async {
            let stdio = bed.open_stdio(false).await.unwrap();
            let pid = bed.create(&container, &stdio).await.unwrap();
            bed.start(&container.id).await.unwrap();
            assert_eq!(real_proc(bed, &container, pid).await, "1234\n123\n", "{container:?}");
            // An exec's, too, or it would be refused.
            let mut exec = process(&["true"]);
            exec["oomScoreAdj"] = json!(321);
            assert_eq!(bed.run_exec(&container.id, &exec).await.unwrap().code, 0);
            bed.down(&container).await;
            drop(stdio);
        });
    }
    let look = "cd /proc; cat sys/kernel/shmmni self/oom_score_adj self/attr/exec self/attr/current \
                self/uid_map self/setgroups 1/oom_score_adj | sort -u";
    assert_eq!(output(bed, &without_proc(Container::sh(look)).disk(DISK)), "fake\n");
}

#[test]
fn key_ring_of_a_session_is_a_containers_own() {
    let bed = bed_or_skip!();
    let free = |args: &[&str]| {
        Container::new(args).with("/linux/seccomp", json!({"defaultAction": "SCMP_ACT_ALLOW"}))
    };
    let name = "husk-case-key";
    assert_eq!(
        output(bed, &free(&["sh", "-c", "probe key add session k; probe key find session k"])),
        "there\nthere\n"
    );
    let owner = free(&["probe", "key", "add", "session", name, "wait"]);
    bed.block_on(async {
        let stdio = bed.up(&owner).await.unwrap();
        let find = process(&["probe", "key", "find", "session", name]);
        let ended = bed.run_exec(&owner.id, &find).await.unwrap();
        assert!(ended.stderr.contains("ENOKEY"), "an exec has its own too: {ended:?}");
        assert_eq!(said(bed, &owner.id, "wc -c < /proc/keys").await, "0\n");
        let other =
            free(&["sh", "-c", &format!("echo ready; probe key find session {name}; sleep 1000")]);
        let mut other_stdio = bed.up(&other).await.unwrap();
        let mut told = [0; 13];
        let stderr = other_stdio.stderr.as_mut().unwrap();
        tokio::io::AsyncReadExt::read_exact(stderr, &mut told).await.unwrap();
        assert_eq!(&told, b"probe: ENOKEY");
        bed.down(&other).await;
        // The filter that is there without another lets nobody ask.
        let plain = Container::sh("echo ready; probe key find session k; sleep 1000");
        let mut plain_stdio = bed.up(&plain).await.unwrap();
        let stderr = plain_stdio.stderr.as_mut().unwrap();
        let mut told = [0; 12];
        tokio::io::AsyncReadExt::read_exact(stderr, &mut told).await.unwrap();
        assert_eq!(&told, b"probe: EPERM");
        bed.down(&plain).await;
        bed.down(&owner).await;
        drop(stdio);
    });
}

#[test]
fn core_pattern_of_a_privileged_container_harms_no_agent() {
    if crate::bed().is_none() {
        return;
    }
    // It is the guest's own.
    let bed = Bed::boot(Path::new(env!("CARGO_TARGET_TMPDIR"))).unwrap();
    let crash = |pattern: &str| {
        let script = format!(
            "echo '{pattern}' > /proc/sys/kernel/core_pattern; sh -c 'kill -SEGV $$' 2>/dev/null; echo $?; sleep 1"
        );
        Container::sh(&script).with("/linux/readonlyPaths", json!([]))
    };
    for pattern in ["|/bin/sh -c id", "|/init %P", "|/proc/self/exe", "|/no/such"] {
        assert_eq!(output(&bed, &crash(pattern)), "139\n", "{pattern}");
        bed.block_on(async { bed.info().await.unwrap() });
    }
    // A helper is the guest's, not the container's: who may write there is root in the guest. The
    // guest has no shell of its own to be it, but a program of the container can be named.
    let helper = "|/proc/%P/root/bin/busybox mkdir /run/from-a-core";
    assert_eq!(output(&bed, &crash(helper)), "139\n");
    // It may be at work after the one that crashed has ended.
    let look = "until [ -e /guest/from-a-core ]; do sleep 0.1; done; \
                ls -d /guest/from-a-core /guest/../from-a-core 2>/dev/null; :";
    let look = Container::sh(look).mount(bind("/run", "/guest"));
    assert_eq!(output(&bed, &look), "/guest/from-a-core\n");
    // What is read-only by the spec of every engine.
    let plain = Container::sh("echo x 2>/dev/null > /proc/sys/kernel/core_pattern || echo refused");
    assert_eq!(bed.run(&plain).unwrap().stdout, "refused\n");
}

#[test]
fn ports_of_the_guest_hear_nobody_but_the_host() {
    if crate::bed().is_none() {
        return;
    }
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let kernel_args = vec!["husk.console=1".to_owned()];
    let options = Options { kernel_args, ..Options::default() };
    let bed = Bed::boot_with(folder, &options).unwrap();
    let (own, loopback) = (GUEST_CID, 1);
    let mut script = String::new();
    for port in [STREAM_PORT, CONSOLE_PORT] {
        for from in [0, loopback, own, 2] {
            for to in [loopback, own] {
                script.push_str(&format!("probe vsock {from} {to} {port} 7777 2>&1\n"));
            }
        }
    }
    script.push_str("echo done");
    let free = |script: &str| {
        Container::sh(script).with("/linux/seccomp", json!({"defaultAction": "SCMP_ACT_ALLOW"}))
    };
    // Without a filter that allows it, there is no such socket at all.
    let plain = output(&bed, &Container::sh("probe vsock 0 1 1025 7777 2>&1; :"));
    assert!(plain.starts_with("probe: socket: EPERM"), "{plain}");
    let said = output(&bed, &free(&script));
    assert_eq!(said.lines().count(), 17, "{said}");
    assert!(!said.contains("answer"), "{said}");
    // Nor does the host take a container for the agent.
    let said = output(&bed, &free("probe vsock 0 2 1024 7777 2>&1; probe vsock 0 2 9 1 2>&1; :"));
    assert!(!said.contains("answer"), "{said}");
    bed.block_on(async { bed.info().await.unwrap() });
    assert_eq!(output(&bed, &Container::sh("echo well")), "well\n");
}

#[test]
fn agents_own_folder_in_proc_is_closed_to_those_in_its_pid_namespace() {
    let bed = bed_or_skip!();
    let script = "cd /proc/1 2>/dev/null || cd /guest/1
                  for f in root cwd exe ns/mnt fd/0 fd/3; do readlink $f; done
                  for f in environ mem maps io stack syscall auxv fd/0 fd/3; do head -c 1 $f; done
                  ls root/ cwd/; ls map_files; (echo x > fd/0); (echo x > mem); (echo x > comm)
                  busybox nsenter -t 1 -m ls /; for s in 1 2 9 15 19; do kill -$s 1; done; echo done";
    let spy = || {
        Container::sh(script)
            .without_namespace("pid")
            .with("/linux/seccomp", json!({"defaultAction": "SCMP_ACT_ALLOW"}))
    };
    let others = ["NET_ADMIN", "SYS_NICE", "SYS_RESOURCE", "DAC_READ_SEARCH"];
    let shown = || without_proc(spy()).mount(bind("/proc", "/guest")).user_namespace();
    for container in [
        spy(),
        with_capabilities(spy(), &others),
        shown(),
        // Those of its own user namespace do not count.
        with_capabilities(shown(), &["SYS_PTRACE", "SYS_ADMIN"]),
    ] {
        let ended = bed.run(&container).unwrap();
        assert_eq!((ended.code, ended.stdout.as_str()), (0, "done\n"), "{ended:?}");
        assert!(ended.stderr.contains("ls: root/: Permission denied"), "{ended:?}");
    }
    // Not the pid namespace but this capability is what opens it.
    assert!(output(bed, &mounts_of_the_agent()).contains(" / "));
    bed.block_on(async { bed.info().await.unwrap() });
}

#[test]
fn layer_that_is_full_holds_up_neither_exec_nor_signal_nor_deletion() {
    let bed = bed_or_skip!();
    let _turn = crate::turn_at_the_disk();
    let _clean = Clean(bed);
    let fill = "dd if=/dev/zero of=/fill bs=64k 2>&1 | grep -o 'No space left on device'; \
                while echo x >> /more; do :; done 2>/dev/null; echo ready; sleep 1000";
    for container in [Container::sh(fill).tmpfs(1 << 20), Container::sh(fill).disk(DISK)] {
        bed.block_on(async {
            let mut stdio = bed.open_stdio(false).await.unwrap();
            bed.create(&container, &stdio).await.unwrap();
            bed.start(&container.id).await.unwrap();
            let out = stdio.stdout.as_mut().unwrap();
            let mut expected = [0; 30];
            tokio::io::AsyncReadExt::read_exact(out, &mut expected).await.unwrap();
            assert_eq!(&expected, b"No space left on device\nready\n");
            let write = "echo in; (echo xxxxxxxx > /new) 2>&1 | grep -o 'No space.*'; mkdir -p /new/a 2>/dev/null; :";
            assert_eq!(said(bed, &container.id, write).await, "in\nNo space left on device\n");
            // A working folder that is to be made, where there is no room for it.
            let mut cwd = process(&["true"]);
            cwd["cwd"] = json!("/no/such/folder");
            assert!(bed.run_exec(&container.id, &cwd).await.is_err());
            bed.signal(&container.id, "", 15, true).await.unwrap();
            bed.down(&container).await;
            drop(stdio);
        });
    }
    // The disk is still full when the next one begins with it: it says so, or does without.
    let next = Container::sh("echo begins").disk(DISK).with("/process/cwd", json!("/made/for/it"));
    match bed.run(&next) {
        Ok(ended) => assert_eq!(ended.stdout, "begins\n", "{ended:?}"),
        Err(refused) => assert!(refused.message.contains("ENOSPC"), "{refused:?}"),
    }
    assert_eq!(output(bed, &Container::sh("echo well")), "well\n");
}
