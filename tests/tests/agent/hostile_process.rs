//! Processes inside that mean harm: to the agent, to its second stage, to other containers. After
//! each case the agent answers and the next container runs.

use husk_tests::agent_bed::{Bed, Container, Stdio, process};
use serde_json::{Value, json};

use crate::{bed_or_skip, output, said};

/// All that a program without a user namespace can have.
fn privileged(container: Container) -> Container {
    let all: Vec<String> = [
        "CHOWN",
        "DAC_OVERRIDE",
        "DAC_READ_SEARCH",
        "FOWNER",
        "KILL",
        "SETGID",
        "SETUID",
        "NET_ADMIN",
        "SYS_CHROOT",
        "SYS_PTRACE",
        "SYS_ADMIN",
        "SYS_BOOT",
        "SYS_NICE",
        "SYS_RESOURCE",
        "MKNOD",
    ]
    .iter()
    .map(|name| format!("CAP_{name}"))
    .collect();
    container
        .with("/process/capabilities", json!({"bounding": all, "effective": all, "permitted": all}))
        .with("/linux/seccomp", json!({"defaultAction": "SCMP_ACT_ALLOW"}))
}

fn well(bed: &Bed) {
    bed.block_on(async { bed.info().await.unwrap() });
    assert_eq!(output(bed, &Container::sh("echo well")), "well\n");
}

#[test]
fn mode_and_owner_of_what_masks_a_file_are_not_roots_inside() {
    let bed = bed_or_skip!();
    let change = "chmod 600 /masked/file 2>&1; busybox chown 33 /masked/file 2>&1; \
                  echo x > /masked/file && cat /masked/file";
    let masked = |container: Container| {
        container.with("/linux/maskedPaths", json!(["/masked/file", "/masked/folder/inside"]))
    };
    let said = output(bed, &masked(Container::sh(change)));
    let refused = "/masked/file: Read-only file system\n";
    assert_eq!(said, format!("chmod: {refused}chown: {refused}"));
    // It is the same device node in every container.
    let look = masked(Container::sh("stat -c '%a %u' /masked/file /masked/folder/inside"));
    assert_eq!(output(bed, &look), "666 0\n666 0\n");
}

/// Looks, for as long as it lives, at every process that appears and is not its own.
const SPY: &str = "
cd /proc; echo ready
while :; do
    for p in [0-9]*; do
        [ $p = 1 ] && continue
        exe=$(readlink $p/exe 2>/dev/null)
        case $exe in ''|/bin/*) ;; *) echo found exe $exe ;; esac
        ls $p/fd/4 2>/dev/null | grep -q . && [ \"$exe\" = '' ] && echo found fd
    done
done";

#[test]
fn program_of_the_second_stage_is_out_of_reach_of_those_inside() {
    let bed = bed_or_skip!();
    let spy = Container::sh(SPY);
    bed.block_on(async {
        let mut stdio = bed.up(&spy).await.unwrap();
        for _ in 0..20 {
            let ended = bed.run_exec(&spy.id, &process(&["true"])).await.unwrap();
            assert_eq!(ended.code, 0);
        }
        bed.signal(&spy.id, "", 9, true).await.unwrap();
        let mut found = String::new();
        let out = stdio.stdout.as_mut().unwrap();
        tokio::io::AsyncReadExt::read_to_string(out, &mut found).await.unwrap();
        assert_eq!(found, "");
        bed.down(&spy).await;
    });
    well(bed);
}

/// Sends a signal to every process but itself, without end.
fn sniper(signal: &str) -> Container {
    Container::sh(&format!(
        "echo ready; while :; do for p in /proc/[0-9]*; do \
             p=${{p#/proc/}}; [ $p = 1 ] || kill -{signal} $p 2>/dev/null; done; done"
    ))
}

#[test]
fn second_stage_that_is_killed_from_inside_is_told_and_leaves_the_container_alone() {
    let bed = bed_or_skip!();
    let sniper = sniper("KILL");
    bed.block_on(async {
        let stdio = bed.up(&sniper).await.unwrap();
        for _ in 0..20 {
            // Killed before or after its exec, or missed.
            let _ = bed.run_exec(&sniper.id, &process(&["true"])).await;
        }
        bed.down(&sniper).await;
        drop(stdio);
    });
    well(bed);
}

#[test]
fn second_stage_that_is_stopped_from_inside_delays_neither_deletion_nor_others() {
    let bed = bed_or_skip!();
    let sniper = sniper("STOP");
    bed.block_on(async {
        let stdio = bed.up(&sniper).await.unwrap();
        let execs = async {
            for _ in 0..10 {
                let _ = bed.exec(&sniper.id, &process(&["true"]), &Stdio::default()).await;
            }
        };
        let work = async {
            for _ in 0..3 {
                let other = Container::sh("echo other");
                let id = bed.launch(&other).await.unwrap();
                bed.remove(&id).await.unwrap();
            }
            bed.down(&sniper).await;
        };
        // Those that hang end with the container.
        tokio::join!(execs, work);
        drop(stdio);
    });
    well(bed);
}

/// With its own cgroup to write to.
fn with_cgroup(script: &str) -> Container {
    let mut container = Container::sh(script);
    let mounts = container.spec["mounts"].as_array_mut().unwrap();
    mounts.retain(|mount| mount["type"] != "cgroup");
    container.mount(json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup"}))
}

#[test]
fn container_that_freezes_itself_can_be_killed_and_deleted() {
    let bed = bed_or_skip!();
    let frozen = with_cgroup(
        "mkdir /sys/fs/cgroup/a; echo ready; echo 1 > /sys/fs/cgroup/cgroup.freeze; sleep 1000",
    );
    bed.block_on(async {
        let stdio = bed.up(&frozen).await.unwrap();
        bed.down(&frozen).await;
        drop(stdio);
    });
    well(bed);
}

#[test]
fn many_cgroups_of_a_containers_own_go_with_it() {
    let bed = bed_or_skip!();
    let wide = with_cgroup(
        "cd /sys/fs/cgroup; i=0; while [ $i -lt 300 ]; do mkdir c$i; i=$((i+1)); done; \
         mkdir -p deep/er/and/deep/er; sleep 1000 & echo $! > deep/er/and/deep/er/cgroup.procs; \
         ls -d c[0-9]* | wc -l",
    );
    let path = format!("/husk/{}", wide.id);
    assert_eq!(output(bed, &wide), "300\n");
    let bind =
        json!({"destination": "/guest", "source": "/sys/fs/cgroup", "options": ["rbind", "ro"]});
    let look =
        Container::sh(&format!("ls /guest{path} 2>&1 | wc -l; ls -d /guest{path} 2>/dev/null; :"))
            .mount(bind);
    assert_eq!(output(bed, &look), "1\n");
    well(bed);
}

#[test]
fn mounts_and_namespaces_of_a_containers_own_go_with_it() {
    let bed = bed_or_skip!();
    let script = "i=0; while [ $i -lt 300 ]; do mkdir -p /m/$i; mount -t tmpfs x /m/$i; i=$((i+1)); done; \
                  i=0; while [ $i -lt 30 ]; do busybox unshare -m -u -i -n sleep 1000 & i=$((i+1)); done; \
                  grep -c /m/ /proc/mounts";
    assert_eq!(output(bed, &privileged(Container::sh(script))), "300\n");
    well(bed);
}

#[test]
fn orphans_and_zombies_end_with_the_container() {
    let bed = bed_or_skip!();
    // The first process reaps nobody.
    let script = "i=0; while [ $i -lt 100 ]; do (sleep 1000 & true) & i=$((i+1)); done; \
                  echo ready; exec sleep 1000";
    let container = Container::sh(script);
    bed.block_on(async {
        let stdio = bed.up(&container).await.unwrap();
        assert_eq!(said(bed, &container.id, "echo in").await, "in\n");
        bed.down(&container).await;
        drop(stdio);
    });
    well(bed);
}

#[test]
fn container_that_ignores_every_signal_is_killed() {
    let bed = bed_or_skip!();
    let deaf =
        Container::sh("trap '' 1 2 3 6 10 12 13 14 15; echo ready; while :; do sleep 1; done");
    bed.block_on(async {
        let stdio = bed.up(&deaf).await.unwrap();
        bed.signal(&deaf.id, "", 15, true).await.unwrap();
        bed.signal(&deaf.id, "", 9, false).await.unwrap();
        assert_eq!(bed.wait(&deaf.id, "").await.unwrap().0, 137);
        bed.delete(&deaf.id).await.unwrap();
        drop(stdio);
    });
}

#[test]
fn reboot_from_inside_ends_the_container_and_not_the_guest() {
    let bed = bed_or_skip!();
    let container = privileged(Container::new(&["busybox", "reboot", "-f"]));
    let ended = bed.run(&container).unwrap();
    // pid_namespaces(7): SIGHUP for a restart.
    assert_eq!(ended.code, 129, "{ended:?}");
    well(bed);
}

#[test]
fn set_uid_program_gives_nothing_to_one_without_new_privileges() {
    let bed = bed_or_skip!();
    // 107 is geteuid(2).
    let prepare = "cat /bin/probe > /tmp/probe; chmod 4755 /tmp/probe; echo ready; sleep 1000";
    for (no_new, effective) in [(false, "ok 0\n"), (true, "ok 33\n")] {
        let container = Container::sh(prepare);
        let mut call = process(&["/tmp/probe", "call", "107"]);
        call["user"] = json!({"uid": 33, "gid": 33});
        call["noNewPrivileges"] = json!(no_new);
        bed.block_on(async {
            let stdio = bed.up(&container).await.unwrap();
            assert_eq!(bed.run_exec(&container.id, &call).await.unwrap().stdout, effective);
            bed.down(&container).await;
            drop(stdio);
        });
    }
}

#[test]
fn windows_and_input_of_a_terminal_that_is_gone_are_refused_or_dropped() {
    let bed = bed_or_skip!();
    let container = Container::sh("echo bye").terminal();
    bed.block_on(async {
        let mut stdio = bed.open_stdio(true).await.unwrap();
        bed.create(&container, &stdio).await.unwrap();
        bed.start(&container.id).await.unwrap();
        bed.wait(&container.id, "").await.unwrap();
        let out = stdio.stdout.as_mut().unwrap();
        let _ = tokio::io::AsyncWriteExt::write_all(out, &[b'x'; 100_000]).await;
        let _ = bed.resize(&container.id, 10, 10).await;
        let _ = bed.close_stdin(&container.id).await;
        bed.delete(&container.id).await.unwrap();
        assert!(bed.resize(&container.id, 10, 10).await.is_err());
    });
    well(bed);
}

#[test]
fn first_control_groups_and_their_release_agents_are_not_there() {
    let bed = bed_or_skip!();
    let script = "mkdir /c; mount -t cgroup -o memory x /c 2>/dev/null && echo mounted; \
                  mount -t cgroup -o none,name=x x /c 2>/dev/null && ls /c | grep release; echo done";
    assert_eq!(output(bed, &privileged(Container::sh(script))), "done\n");
    well(bed);
}

#[test]
fn kernel_settings_and_devices_are_not_a_plain_containers() {
    let bed = bed_or_skip!();
    let script = "
        for f in /proc/sys/kernel/core_pattern /proc/sys/kernel/modprobe /proc/sys/vm/drop_caches \
                 /proc/sys/kernel/hostname /sys/kernel/uevent_helper /sys/kernel/rcu_expedited \
                 /proc/irq/default_smp_affinity /sys/fs/cgroup/cgroup.kill /proc/sysrq-trigger; do
            (echo 1 > $f) 2>/dev/null && echo written $f
        done
        for n in 'c 1 1' 'c 1 2' 'c 1 4' 'c 1 11' 'b 254 0' 'b 254 32' 'c 10 229' 'c 5 1' 'c 4 64' 'c 10 241'; do
            rm -f /tmp/node; mknod /tmp/node $n
            (: < /tmp/node) 2>/dev/null && echo read $n
            (: > /tmp/node) 2>/dev/null && echo written $n
        done; echo done";
    assert_eq!(output(bed, &Container::sh(script)), "done\n");
}

#[test]
fn limits_that_leave_the_stage_nothing_are_the_programs_alone() {
    let bed = bed_or_skip!();
    let limit = |kind: &str, value: u64| json!([{"type": format!("RLIMIT_{kind}"), "soft": value, "hard": value}]);
    for (kind, value) in [
        ("NOFILE", 3),
        ("NOFILE", 0),
        ("FSIZE", 0),
        ("NPROC", 0),
        ("MEMLOCK", 0),
        ("STACK", 65536),
        ("SIGPENDING", 0),
        ("MSGQUEUE", 0),
        ("NICE", 0),
        ("AS", 8 << 20),
    ] {
        for user in [0, 33] {
            let container = Container::new(&["/bin/true"])
                .with("/process/rlimits", limit(kind, value))
                .with("/process/user", json!({"uid": user, "gid": 0}));
            let ended = bed.run(&container);
            assert!(
                ended.as_ref().is_ok_and(|ended| ended.code == 0),
                "{kind} {value} {user}: {ended:?}"
            );
        }
    }
}

#[test]
fn sizes_beyond_those_of_the_kernel_are_refused_and_leave_nothing() {
    let bed = bed_or_skip!();
    let long = |len: usize| "x".repeat(len);
    let deep = format!("/{}", vec!["d"; 3000].join("/"));
    let cases: Vec<(&str, Value)> = vec![
        ("/process/args", json!(["true", long(200_000)])),
        ("/process/args", json!([long(5000)])),
        ("/process/cwd", json!(format!("/{}", long(300)))),
        ("/process/cwd", json!(deep)),
        ("/hostname", json!(long(65))),
        ("/hostname", json!(long(100_000))),
        ("/linux/maskedPaths", json!([format!("/{}", long(300))])),
        ("/linux/readonlyPaths", json!([deep])),
        ("/process/env", json!([format!("A={}", long(200_000))])),
        (
            "/process/user",
            json!({"uid": 0, "gid": 0, "additionalGids": (0..70_000).collect::<Vec<u32>>()}),
        ),
        ("/mounts/0/destination", json!(deep)),
        ("/mounts/1/options", json!([format!("size={}", long(5000))])),
    ];
    for (field, value) in cases {
        let container = Container::new(&["true"]).with(field, value);
        assert!(bed.run(&container).is_err(), "{field}");
        bed.block_on(async {
            assert!(!bed.list().await.unwrap().contains(&container.id), "{field}")
        });
    }
    let nested = format!("{{\"a\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(bed.block_on(bed.create_raw("nested", nested.as_bytes())).is_err());
    well(bed);
}
