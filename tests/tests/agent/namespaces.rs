//! `linux.namespaces`: new ones, the guest's, and those of other containers of the sandbox.

use husk_tests::agent_bed::{Bed, Container};
use serde_json::json;

use crate::{bed_or_skip, output};

/// Stays until it is killed.
pub const IDLE: &str = "echo ready; while :; do sleep 1; done";
/// Which namespaces the process is in.
pub const LINKS: &str = "for kind in mnt cgroup uts ipc user pid net time; do \
                         readlink /proc/self/ns/$kind; done";

/// What a container says while another is up.
pub fn beside(bed: &Bed, up: &Container, other: &Container) -> String {
    bed.block_on(bed.up(up)).unwrap();
    let said = output(bed, other);
    bed.block_on(bed.down(up));
    said
}

fn link(kind: &str) -> String {
    format!("readlink /proc/self/ns/{kind}")
}

#[test]
fn new_namespaces_of_every_kind_are_nobody_elses() {
    let bed = bed_or_skip!();
    let container = || Container::sh(LINKS).namespace("time").user_namespace();
    let idle = Container::sh(IDLE).namespace("time").user_namespace();
    bed.block_on(bed.up(&idle)).unwrap();
    let first = bed.block_on(bed.said_by_exec(&idle, LINKS));
    let second = output(bed, &container());
    bed.block_on(bed.down(&idle));
    assert_eq!(first.lines().count(), 8);
    for (one, other) in first.lines().zip(second.lines()) {
        assert_ne!(one, other);
    }
}

#[test]
fn namespaces_left_out_are_the_guests() {
    let bed = bed_or_skip!();
    for (kind, file) in
        [("uts", "uts"), ("ipc", "ipc"), ("network", "net"), ("cgroup", "cgroup"), ("pid", "pid")]
    {
        let without = |script: &str| {
            let container = Container::sh(script).without_namespace(kind);
            if kind == "uts" { container.with("/hostname", json!(null)) } else { container }
        };
        let shared = output(bed, &without(&link(file)));
        assert_eq!(shared, output(bed, &without(&link(file))), "{kind}");
        assert_ne!(shared, output(bed, &Container::sh(&link(file))), "{kind}");
    }
}

#[test]
fn namespace_of_another_container_is_joined_by_its_id() {
    let bed = bed_or_skip!();
    for (kind, file) in [
        ("uts", "uts"),
        ("ipc", "ipc"),
        ("network", "net"),
        ("cgroup", "cgroup"),
        ("pid", "pid"),
        ("time", "time"),
    ] {
        let idle = Container::sh(IDLE).namespace("time");
        let joined = Container::sh(&link(file)).joining(kind, &idle);
        bed.block_on(bed.up(&idle)).unwrap();
        let own = bed.block_on(bed.said_by_exec(&idle, &link(file)));
        assert_eq!(output(bed, &joined), own, "{kind}");
        bed.block_on(bed.down(&idle));
    }
}

#[test]
fn namespace_is_joined_by_a_path_of_the_guest() {
    let bed = bed_or_skip!();
    let idle = Container::sh(IDLE);
    bed.block_on(async {
        let stdio = bed.open_stdio(false).await.unwrap();
        let pid = bed.create(&idle, &stdio).await.unwrap();
        bed.start(&idle.id).await.unwrap();
        let own = bed.said_by_exec(&idle, &link("net")).await;
        let path = format!("/proc/{pid}/ns/net");
        let joined = Container::sh(IDLE).joining_path("network", &path);
        let _output = bed.up(&joined).await.unwrap();
        assert_eq!(bed.said_by_exec(&joined, &link("net")).await, own);
        bed.down(&joined).await;
        bed.down(&idle).await;
    });
}

#[test]
fn container_that_waits_to_be_started_can_be_joined() {
    let bed = bed_or_skip!();
    let waiting = Container::new(&["true"]).with("/hostname", json!("waiting"));
    bed.block_on(async {
        let stdio = bed.open_stdio(false).await.unwrap();
        bed.create(&waiting, &stdio).await.unwrap();
    });
    let joined = Container::sh("hostname").joining("uts", &waiting).with("/hostname", json!(null));
    assert_eq!(output(bed, &joined), "waiting\n");
    bed.block_on(bed.delete(&waiting.id)).unwrap();
}

#[test]
fn shared_network_reaches_a_socket_on_the_loopback_interface() {
    let bed = bed_or_skip!();
    let server = Container::sh("echo ready; probe tcp serve 4000; while :; do sleep 1; done");
    let ask = "for i in $(seq 100); do probe tcp ask 4000 2>/dev/null && exit; sleep 0.1; done; \
               exit 1";
    let client = Container::sh(ask).joining("network", &server);
    assert_eq!(beside(bed, &server, &client), "hello\n");
    let stranger = Container::sh("probe tcp ask 4000");
    assert!(bed.run(&stranger).unwrap().stderr.contains("refused"));
}

#[test]
fn shared_ipc_has_the_same_shared_memory() {
    let bed = bed_or_skip!();
    let maker = Container::sh("probe shm make >&2; echo ready; while :; do sleep 1; done");
    let look = || Container::sh("probe shm look 2>&1 || true");
    assert_eq!(beside(bed, &maker, &look().joining("ipc", &maker)), "found\n");
    assert!(beside(bed, &maker, &look()).contains("ENOENT"));
}

#[test]
fn shared_uts_has_the_same_host_name_and_either_can_set_it() {
    let bed = bed_or_skip!();
    let idle = Container::sh(IDLE);
    bed.block_on(bed.up(&idle)).unwrap();
    let plain = Container::sh("hostname").joining("uts", &idle).with("/hostname", json!(null));
    assert_eq!(output(bed, &plain), "inside\n");
    let naming = Container::sh("hostname").joining("uts", &idle).with("/hostname", json!("second"));
    assert_eq!(output(bed, &naming), "second\n");
    assert_eq!(bed.block_on(bed.said_by_exec(&idle, "hostname")), "second\n");
    bed.block_on(bed.down(&idle));
}

#[test]
fn shared_mount_namespace_is_the_whole_root() {
    let bed = bed_or_skip!();
    let owner = Container::sh("echo mine > /tmp/file; echo ready; while :; do sleep 1; done");
    let script = "cat /tmp/file; pwd; readlink /proc/self/ns/mnt; echo theirs > /tmp/file";
    // The namespace's /proc is of its own pid namespace.
    let guest =
        Container::sh(script).without_root().joining("mount", &owner).joining("pid", &owner);
    bed.block_on(bed.up(&owner)).unwrap();
    let said = output(bed, &guest);
    let mount = bed.block_on(bed.said_by_exec(&owner, &link("mnt")));
    assert_eq!(said, format!("mine\n/\n{mount}"));
    assert_eq!(bed.block_on(bed.said_by_exec(&owner, "cat /tmp/file")), "theirs\n");
    bed.block_on(bed.down(&owner));
}

#[test]
fn exec_is_in_all_namespaces_of_its_container_joined_or_not() {
    let bed = bed_or_skip!();
    let idle = Container::sh(IDLE).namespace("time");
    // It ends with its input, and not before it has said everything.
    let mixed = Container::sh(&format!("{LINKS}; read -r _"))
        .joining("network", &idle)
        .joining("pid", &idle)
        .joining("time", &idle)
        .without_namespace("ipc");
    bed.block_on(async {
        let _output = bed.up(&idle).await.unwrap();
        let stdio = bed.open_stdio(false).await.unwrap();
        bed.create(&mixed, &stdio).await.unwrap();
        bed.start(&mixed.id).await.unwrap();
        let inside = bed.said_by_exec(&mixed, LINKS).await;
        let ended = bed.finish(&mixed.id, "", stdio, b"").await.unwrap();
        assert_eq!(ended.stdout, inside);
        bed.delete(&mixed.id).await.unwrap();
        bed.down(&idle).await;
    });
}

#[test]
fn sysctl_of_a_joined_namespace_is_set_there() {
    let bed = bed_or_skip!();
    let idle = Container::sh(IDLE);
    let setter = Container::sh("true")
        .joining("network", &idle)
        .with("/linux/sysctl", json!({"net.core.somaxconn": "321"}));
    bed.block_on(bed.up(&idle)).unwrap();
    output(bed, &setter);
    let said = bed.block_on(bed.said_by_exec(&idle, "cat /proc/sys/net/core/somaxconn"));
    bed.block_on(bed.down(&idle));
    assert_eq!(said, "321\n");
}
