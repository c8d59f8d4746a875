//! Containers that share a user namespace, and containers of different ones that share others.

use husk_tests::agent_bed::{Container, DISK, FIRST_ID, process};
use serde_json::json;

use crate::{
    bed_or_skip,
    namespaces::{IDLE, beside},
    output, refusal,
};

const WHO: &str = "readlink /proc/self/ns/user; tr -s ' ' < /proc/self/uid_map";

#[test]
fn joined_user_namespace_with_a_pid_namespace_of_its_own() {
    let bed = bed_or_skip!();
    let owner = Container::sh(IDLE).user_namespace();
    let script = format!("{WHO}; echo $$; id -u; stat -c %u /etc/passwd; ps > /new; wc -l < /new");
    let joined = Container::sh(&script).joining("user", &owner);
    bed.block_on(bed.up(&owner)).unwrap();
    let said = output(bed, &joined);
    let who = bed.block_on(bed.said_by_exec(&owner, WHO));
    bed.block_on(bed.down(&owner));
    assert!(said.starts_with(&format!("{who}1\n0\n0\n")), "{said} {who}");
    // A header, the shell and ps: nothing of the other container.
    assert!(said.ends_with("\n3\n"), "{said}");
}

#[test]
fn joined_user_namespace_with_its_pid_namespace() {
    let bed = bed_or_skip!();
    let owner = Container::sh("echo ready; exec sleep 4321").user_namespace();
    let joined = Container::sh(&format!("{WHO}; id -u; ps; echo again > /dev/stdout"))
        .joining("user", &owner)
        .joining("pid", &owner)
        .joining("network", &owner)
        .joining("ipc", &owner)
        .joining("uts", &owner);
    bed.block_on(bed.up(&owner)).unwrap();
    let said = output(bed, &joined);
    let who = bed.block_on(bed.said_by_exec(&owner, WHO));
    bed.block_on(bed.down(&owner));
    assert!(said.starts_with(&format!("{who}0\n")), "{said} {who}");
    assert!(said.contains("sleep 4321") && said.ends_with("again\n"), "{said}");
}

#[test]
fn disk_of_a_container_that_joins_a_user_namespace_has_its_owners() {
    let bed = bed_or_skip!();
    let _turn = crate::turn_at_the_disk();
    let owner = Container::sh(IDLE).user_namespace();
    let make =
        "touch /var/joined; busybox chown 33 /var/joined; stat -c %u /var/joined /etc/passwd";
    let joined = Container::sh(make).joining("user", &owner).disk(DISK);
    assert_eq!(beside(bed, &owner, &joined), "33\n0\n");
    let look = Container::sh("stat -c %u /var/joined; busybox rm /var/joined").disk(DISK);
    assert_eq!(output(bed, &look), "33\n");
}

#[test]
fn joined_user_and_mount_namespaces() {
    let bed = bed_or_skip!();
    let owner = Container::sh("echo mine > /tmp/file; echo ready; while :; do sleep 1; done")
        .user_namespace();
    let joined = |script: &str| {
        Container::sh(script)
            .without_root()
            .joining("user", &owner)
            .joining("mount", &owner)
            .joining("pid", &owner)
    };
    let said = beside(bed, &owner, &joined("cat /tmp/file; id -u; stat -c %u /tmp/file"));
    assert_eq!(said, "mine\n0\n0\n");
}

#[test]
fn exec_into_a_joined_user_namespace() {
    let bed = bed_or_skip!();
    let owner = Container::sh(IDLE).user_namespace();
    let joined = Container::sh(IDLE).joining("user", &owner);
    bed.block_on(async {
        let _outputs = (bed.up(&owner).await.unwrap(), bed.up(&joined).await.unwrap());
        let own = bed.said_by_exec(&owner, WHO).await;
        assert_eq!(bed.said_by_exec(&joined, WHO).await, own);
        let mut web = process(&["sh", "-c", "id -u; echo again > /dev/stdout"]);
        web["user"] = json!({"uid": 33, "gid": 34});
        let ended = bed.run_exec(&joined.id, &web).await.unwrap();
        assert_eq!((ended.stdout.as_str(), ended.stderr.as_str()), ("33\nagain\n", ""));
        bed.down(&joined).await;
        bed.down(&owner).await;
    });
}

#[test]
fn new_user_namespace_can_share_the_network_of_a_container_without_one() {
    let bed = bed_or_skip!();
    let server = Container::sh("echo ready; probe tcp serve 4100; while :; do sleep 1; done");
    let ask = "for i in $(seq 100); do probe tcp ask 4100 2>/dev/null && break; sleep 0.1; done; \
               id -u";
    let mut client = Container::sh(ask).user_namespace().joining("network", &server);
    // sysfs would belong to the network's user namespace.
    client.spec["mounts"]
        .as_array_mut()
        .unwrap()
        .retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/sys"));
    assert_eq!(beside(bed, &server, &client), "hello\n0\n");
}

#[test]
fn two_user_namespaces_do_not_reach_each_other() {
    let bed = bed_or_skip!();
    let other = json!([{"containerID": 0, "hostID": FIRST_ID * 2, "size": 1000}]);
    let owner = Container::sh(IDLE).user_namespace();
    // With the other's processes in sight: a root there is nobody here.
    let mut stranger =
        Container::sh("kill -9 1 2>&1; readlink /proc/1/root 2>/dev/null || echo shut")
            .user_namespace()
            .joining("pid", &owner)
            .with("/linux/uidMappings", other.clone())
            .with("/linux/gidMappings", other);
    stranger.spec["mounts"].as_array_mut().unwrap().retain(|mount| mount["type"] != "proc");
    let said = {
        bed.block_on(bed.up(&owner)).unwrap();
        let ended = bed.run(&stranger).unwrap();
        assert_eq!(bed.block_on(bed.said_by_exec(&owner, "echo alive")), "alive\n");
        bed.block_on(bed.down(&owner));
        ended.stdout
    };
    assert!(said.contains("not permitted") && said.ends_with("shut\n"), "{said}");
}

#[test]
fn joined_user_namespace_has_its_own_maps() {
    let bed = bed_or_skip!();
    let owner = Container::sh(IDLE).user_namespace();
    let map = json!([{"containerID": 0, "hostID": 0, "size": 10}]);
    let joined = Container::sh("true").joining("user", &owner).with("/linux/uidMappings", map);
    bed.block_on(bed.up(&owner)).unwrap();
    let refused = refusal(bed.run(&joined));
    bed.block_on(bed.down(&owner));
    let expected = "linux.uidMappings: the joined user namespace has its own";
    assert_eq!(refused.message, expected);
}
