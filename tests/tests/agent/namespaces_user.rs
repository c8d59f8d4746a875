//! User namespaces: who the processes are inside and outside, whose the files are, and what a root
//! that is none of the guest's can do.

use husk_protocols::error::ErrorKind;
use husk_tests::agent_bed::{Container, DISK, FIRST_ID, process};
use serde_json::json;

use crate::{bed_or_skip, namespaces::IDLE, output, refusal};

fn user(script: &str) -> Container {
    Container::sh(script).user_namespace()
}

#[test]
fn root_inside_has_the_maps_of_the_spec() {
    let bed = bed_or_skip!();
    let maps = json!([
        {"containerID": 0, "hostID": 100_000, "size": 1000},
        {"containerID": 1000, "hostID": 300_000, "size": 5},
    ]);
    let container = user(
        "id -u; id -g; tr -s ' ' < /proc/self/uid_map; tr -s ' ' < /proc/self/gid_map; \
         cat /proc/self/setgroups; hostname",
    )
    .with("/linux/uidMappings", maps);
    let said = output(bed, &container);
    let expected =
        "0\n0\n 0 100000 1000\n 1000 300000 5\n 0 100000 65536\nallow\ninside\n".to_owned();
    assert_eq!(said, expected);
}

#[test]
fn process_is_somebody_else_in_the_guest() {
    let bed = bed_or_skip!();
    let idle = user(IDLE).with("/process/user", json!({"uid": 33, "gid": 34}));
    bed.block_on(async {
        let mut stdio = bed.open_stdio(false).await.unwrap();
        let pid = bed.create(&idle, &stdio).await.unwrap();
        bed.start(&idle.id).await.unwrap();
        let look = format!("grep -E '^[UG]id' /proc/{pid}/status | tr '\\t' ' '");
        let look = Container::sh(&look).without_namespace("pid");
        let look_stdio = bed.open_stdio(false).await.unwrap();
        bed.create(&look, &look_stdio).await.unwrap();
        bed.start(&look.id).await.unwrap();
        let said = bed.finish(&look.id, "", look_stdio, b"").await.unwrap().stdout;
        let (uid, gid) = (FIRST_ID + 33, FIRST_ID + 34);
        let expected = format!("Uid: {uid} {uid} {uid} {uid}\nGid: {gid} {gid} {gid} {gid}\n");
        assert_eq!(said, expected);
        bed.delete(&look.id).await.unwrap();
        bed.down(&idle).await;
        stdio.stdout.take();
    });
}

#[test]
fn files_of_the_image_are_roots_and_so_are_new_ones() {
    let bed = bed_or_skip!();
    let said = output(
        bed,
        &user(
            "stat -c '%u %g' / /etc/passwd /bin/busybox; touch /new /etc/new /dev/shm/new; \
             echo x >> /etc/passwd; mkdir /var/folder; \
             stat -c '%u %g' /new /etc/new /dev/shm/new /etc/passwd /var/folder /dev /proc/1",
        ),
    );
    assert_eq!(said, "0 0\n".repeat(10));
}

#[test]
fn files_on_a_disk_are_the_same_with_and_without_a_user_namespace() {
    let bed = bed_or_skip!();
    let _turn = crate::turn_at_the_disk();
    let make = "mkdir /var/ids; touch /var/ids/root; touch /var/ids/user; \
                busybox chown 33:34 /var/ids/user; rm -f /var/ids/none; ls -d /etc/group";
    let script = make.replace("rm -f", "busybox rm -f");
    assert_eq!(output(bed, &user(&script).disk(DISK)), "/etc/group\n");
    let look = "stat -c '%u %g' /var/ids /var/ids/root /var/ids/user";
    let expected = "0 0\n0 0\n33 34\n";
    assert_eq!(output(bed, &Container::sh(look).disk(DISK)), expected);
    let again =
        format!("{look}; busybox rm -r /var/ids; busybox rm /etc/group; ls /etc/group 2>&1");
    let said = bed.run(&user(&again).disk(DISK)).unwrap().stdout;
    assert!(said.starts_with(expected) && said.contains("No such file"), "{said}");
    // What was removed in the user namespace is removed; the file comes back for the others.
    let restore = "ls /etc/group 2>/dev/null || echo 'root:x:0:' > /etc/group; ls /etc/group";
    assert_eq!(output(bed, &Container::sh(restore).disk(DISK)), "/etc/group\n");
}

#[test]
fn capabilities_count_inside_only() {
    let bed = bed_or_skip!();
    let all =
        json!(["CAP_SYS_ADMIN", "CAP_MKNOD", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_SYS_TIME"]);
    let container = user(
        "mount -t tmpfs none /tmp && echo mounted; hostname other && hostname; \
         busybox mknod /tmp/null c 1 3 2>/dev/null || echo no node; \
         date -s 2030-01-01 >/dev/null 2>&1; test $(date +%Y) = 2030 || echo no clock; \
         echo x 2>/dev/null > /proc/sysrq-trigger || echo no trigger",
    )
    .with("/process/capabilities", json!({"bounding": all, "effective": all, "permitted": all}));
    assert_eq!(output(bed, &container), "mounted\nother\nno node\nno clock\nno trigger\n");
}

#[test]
fn devices_are_the_guests_own_and_work() {
    let bed = bed_or_skip!();
    let script = "head -c 4 /dev/zero | wc -c; head -c 4 /dev/urandom | wc -c; \
                  echo x > /dev/null; echo x 2>/dev/null > /dev/full || echo full; \
                  readlink /dev/fd; readlink /dev/ptmx; stat -c '%t %T' /dev/null; \
                  head -c 2 /dev/own/zero | wc -c; stat -c %F /dev/pipe";
    let devices = json!([
        {"path": "/dev/own/zero", "type": "c", "major": 1, "minor": 5, "fileMode": 0o666},
        {"path": "/dev/pipe", "type": "p", "fileMode": 0o600},
    ]);
    let said = output(bed, &user(script).with("/linux/devices", devices));
    assert_eq!(said, "4\n4\nfull\n/proc/self/fd\npts/ptmx\n1 3\n2\nfifo\n");
    let missing = json!([{"path": "/dev/x", "type": "c", "major": 250, "minor": 77}]);
    let refused = refusal(bed.run(&user("true").with("/linux/devices", missing)));
    assert_eq!(refused.kind, ErrorKind::Invalid);
    assert!(refused.message.starts_with("linux.devices[/dev/x]: the guest has no"), "{refused:?}");
}

#[test]
fn kernel_file_systems_are_mounted_and_paths_hidden() {
    let bed = bed_or_skip!();
    let script = "for place in /proc /sys /sys/fs/cgroup /dev/pts /dev/shm /dev/mqueue; do \
                  grep \" $place \" /proc/mounts | cut -d' ' -f3; done; \
                  cat /proc/self/cgroup; ls /sys/fs/cgroup/cgroup.procs; \
                  cat /masked/file; ls /masked/folder; head -c 1 /proc/keys | wc -c; \
                  echo 1 2>/dev/null > /proc/sys/kernel/panic || echo read-only";
    let container = user(script).with(
        "/linux/maskedPaths",
        json!(["/masked/file", "/masked/folder", "/proc/keys", "/sys/firmware"]),
    );
    let said = output(bed, &container);
    let expected = "proc\nsysfs\ncgroup2\ndevpts\ntmpfs\nmqueue\n0::/\n\
                    /sys/fs/cgroup/cgroup.procs\n0\nread-only\n";
    assert_eq!(said, expected);
}

#[test]
fn read_only_root_and_bind_mounts_work() {
    let bed = bed_or_skip!();
    let container = user("touch /x 2>&1; touch /place/x 2>&1; touch /dev/shm/x && echo written")
        .with("/root/readonly", json!(true))
        .mount(json!({"destination": "/place", "type": "bind", "source": "/tmp",
                      "options": ["bind", "ro"]}));
    let said = output(bed, &container);
    let expected = "touch: /x: Read-only file system\n\
                    touch: /place/x: Read-only file system\nwritten\n";
    assert_eq!(said, expected);
}

#[test]
fn terminal_belongs_to_the_user() {
    let bed = bed_or_skip!();
    let container = user("tty; stat -c '%u %g' $(tty); stat -c %F /dev/console").terminal();
    let said = bed.run(&container).unwrap().stdout.replace('\r', "");
    assert_eq!(said, "/dev/pts/0\n0 5\ncharacter special file\n");
}

#[test]
fn terminal_of_a_user_who_is_not_root_can_be_opened_again() {
    let bed = bed_or_skip!();
    let container = user("echo again > /dev/tty; echo more > /dev/stdout; stat -c %u $(tty)")
        .with("/process/user/uid", json!(1000))
        .terminal();
    let said = bed.run(&container).unwrap().stdout.replace('\r', "");
    assert_eq!(said, "again\nmore\n1000\n");
}

#[test]
fn streams_belong_to_the_user() {
    let bed = bed_or_skip!();
    for uid in [0, 1000] {
        let container = user("echo out > /dev/stdout; echo err > /dev/stderr; id -u")
            .with("/process/user/uid", json!(uid));
        let ended = bed.run(&container).unwrap();
        let expected = (format!("out\n{uid}\n"), "err\n");
        assert_eq!((ended.stdout, ended.stderr.as_str()), expected);
    }
}

#[test]
fn limits_and_oom_score_are_set_as_only_the_guests_root_can() {
    let bed = bed_or_skip!();
    let limits = json!([{"type": "RLIMIT_NOFILE", "soft": 500_000, "hard": 1_000_000}]);
    let script = "probe limit nofile; cat /proc/self/oom_score_adj";
    let container = user(script)
        .with("/process/rlimits", limits.clone())
        .with("/process/oomScoreAdj", json!(-500));
    assert_eq!(output(bed, &container), "500000 1000000\n-500\n");
    let idle = user(IDLE);
    bed.block_on(async {
        let _output = bed.up(&idle).await.unwrap();
        let mut wanted = process(&["sh", "-c", script]);
        wanted["rlimits"] = limits;
        wanted["oomScoreAdj"] = json!(-400);
        let ended = bed.run_exec(&idle.id, &wanted).await.unwrap();
        assert_eq!(ended.stdout, "500000 1000000\n-400\n", "{ended:?}");
        bed.down(&idle).await;
    });
}

#[test]
fn exec_is_in_the_user_namespace_with_its_own_user() {
    let bed = bed_or_skip!();
    let idle = user(IDLE);
    bed.block_on(async {
        let _output = bed.up(&idle).await.unwrap();
        let script = "id -u; id -g; tr -s ' ' < /proc/self/uid_map; echo again > /dev/stdout; \
                      touch /tmp/exec; stat -c %u /tmp/exec; readlink /proc/self/ns/user";
        let root = bed.said_by_exec(&idle, script).await;
        let first = bed.said_by_exec(&idle, "readlink /proc/1/ns/user").await;
        assert_eq!(root, format!("0\n0\n 0 100000 65536\nagain\n0\n{first}"));
        let mut web = process(&["sh", "-c", "id -u; id -g; echo again > /dev/stdout"]);
        web["user"] = json!({"uid": 33, "gid": 34, "additionalGids": [50]});
        let ended = bed.run_exec(&idle.id, &web).await.unwrap();
        assert_eq!((ended.stdout.as_str(), ended.stderr.as_str()), ("33\n34\nagain\n", ""));
        let mut tty = process(&["sh", "-c", "tty; id -u"]);
        tty["terminal"] = json!(true);
        let ended = bed.run_exec(&idle.id, &tty).await.unwrap();
        assert_eq!(ended.stdout.replace('\r', ""), "/dev/pts/0\n0\n");
        bed.down(&idle).await;
    });
}

#[test]
fn command_that_is_not_there_is_said_in_a_user_namespace_too() {
    let bed = bed_or_skip!();
    let missing = Container::new(&["nothing"]).user_namespace();
    assert_eq!(refusal(bed.run(&missing)).kind, ErrorKind::CommandNotFound);
    let idle = user(IDLE);
    bed.block_on(async {
        let _output = bed.up(&idle).await.unwrap();
        let refused = bed.run_exec(&idle.id, &process(&["nothing"])).await.unwrap_err();
        assert_eq!(refused.kind, ErrorKind::CommandNotFound);
        bed.down(&idle).await;
    });
}

#[test]
fn cgroup_that_can_be_written_belongs_to_the_user() {
    let bed = bed_or_skip!();
    let script = "mkdir /sys/fs/cgroup/own && echo $$ > /sys/fs/cgroup/own/cgroup.procs; \
                  cat /proc/self/cgroup; stat -c %u /sys/fs/cgroup /sys/fs/cgroup/pids.max; \
                  echo 1 2>/dev/null > /sys/fs/cgroup/pids.max || echo refused";
    let mut container = user(script);
    for mount in container.spec["mounts"].as_array_mut().unwrap() {
        if mount["type"] == "cgroup" {
            mount["options"] = json!(["nosuid", "noexec", "nodev"]);
        }
    }
    assert_eq!(output(bed, &container), "0::/own\n0\n65534\nrefused\n");
}

#[test]
fn policies_and_priorities_that_need_the_guests_root_are_given() {
    let bed = bed_or_skip!();
    let scheduler = json!({"policy": "SCHED_FIFO", "priority": 5});
    let io = json!({"class": "IOPRIO_CLASS_RT", "priority": 2});
    let container = Container::new(&["probe", "scheduling"])
        .user_namespace()
        .with("/process/scheduler", scheduler.clone())
        .with("/process/ioPriority", io.clone());
    let given = |said: &str| {
        said.starts_with("policy 1 flags 0 nice 0 priority 5") && said.contains("io 1 2")
    };
    let said = output(bed, &container);
    assert!(given(&said), "{said}");
    bed.block_on(async {
        let id = bed.launch(&user(IDLE)).await.unwrap();
        let mut exec = process(&["probe", "scheduling"]);
        exec["scheduler"] = scheduler;
        exec["ioPriority"] = io;
        let ended = bed.run_exec(&id, &exec).await.unwrap();
        assert!(given(&ended.stdout), "{ended:?}");
        bed.remove(&id).await.unwrap();
    });
}
