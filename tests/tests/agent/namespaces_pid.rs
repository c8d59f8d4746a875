//! Pid namespaces that several containers share: who sees whom, and who ends with whom.

use husk_tests::agent_bed::Container;

use crate::{
    bed_or_skip,
    namespaces::{IDLE, beside},
    output,
};

/// Says whether a process is alive: one that nobody has reaped yet is not.
fn alive(pid: &str) -> String {
    format!("grep -q 'State:.*[RSD] ' /proc/{pid}/status 2>/dev/null && echo alive || echo dead")
}

#[test]
fn processes_of_a_shared_pid_namespace_see_each_other() {
    let bed = bed_or_skip!();
    let idle = Container::sh("echo ready; exec sleep 4321");
    let other = || Container::sh("ps; echo pid-$$");
    let shared = beside(bed, &idle, &other().joining("pid", &idle));
    assert!(shared.contains("sleep 4321") && !shared.contains("pid-1\n"), "{shared}");
    let own = beside(bed, &idle, &other());
    assert!(!own.contains("4321") && own.contains("pid-1\n"), "{own}");
}

#[test]
fn container_of_a_shared_pid_namespace_can_be_signalled_from_another() {
    let bed = bed_or_skip!();
    let idle = Container::sh("trap 'exit 7' TERM; echo ready; while :; do sleep 0.1; done");
    let killer = Container::sh("kill -TERM 1").joining("pid", &idle);
    bed.block_on(async { bed.up(&idle).await }).unwrap();
    output(bed, &killer);
    assert_eq!(bed.block_on(bed.wait(&idle.id, "")).unwrap().0, 7);
    bed.block_on(bed.down(&idle));
}

#[test]
fn guests_own_pid_namespace_shows_the_guest() {
    let bed = bed_or_skip!();
    let container = Container::sh(
        "test $$ != 1 && readlink /proc/1/ns/pid > /dev/null; \
                                   grep -c Name /proc/1/status; ps | grep -c kthreadd",
    )
    .without_namespace("pid");
    let said = output(bed, &container);
    assert!(said.starts_with("1\n") && !said.ends_with("\n0\n"), "{said}");
}

#[test]
fn rest_of_a_container_ends_before_its_end_is_told() {
    let bed = bed_or_skip!();
    let owner = Container::sh(IDLE);
    let leaver = Container::sh("sleep 1000 & sleep 1001 & echo $!; exit 3").joining("pid", &owner);
    bed.block_on(async {
        let _output = bed.up(&owner).await.unwrap();
        let stdio = bed.open_stdio(false).await.unwrap();
        bed.create(&leaver, &stdio).await.unwrap();
        bed.start(&leaver.id).await.unwrap();
        let ended = bed.finish(&leaver.id, "", stdio, b"").await.unwrap();
        assert_eq!(ended.code, 3);
        let said = bed.said_by_exec(&owner, &alive(ended.stdout.trim())).await;
        assert_eq!(said, "dead\n");
        assert_eq!(bed.said_by_exec(&owner, &alive("1")).await, "alive\n");
        bed.delete(&leaver.id).await.unwrap();
        bed.down(&owner).await;
    });
}

#[test]
fn orphan_in_the_guests_pid_namespace_ends_and_is_reaped() {
    let bed = bed_or_skip!();
    let leaver = Container::sh("sleep 1000 & echo $!; exit 4").without_namespace("pid");
    let ended = bed.run(&leaver).unwrap();
    assert_eq!(ended.code, 4);
    let look = format!("test -e /proc/{} && echo there || echo gone", ended.stdout.trim());
    assert_eq!(output(bed, &Container::sh(&look).without_namespace("pid")), "gone\n");
}

#[test]
fn end_of_the_owner_ends_who_has_joined() {
    let bed = bed_or_skip!();
    let owner = Container::sh(IDLE);
    let joined = Container::sh(IDLE).joining("pid", &owner);
    bed.block_on(async {
        let _outputs = (bed.up(&owner).await.unwrap(), bed.up(&joined).await.unwrap());
        bed.signal(&owner.id, "", 9, false).await.unwrap();
        assert_eq!(bed.wait(&joined.id, "").await.unwrap().0, 137);
        bed.down(&joined).await;
        bed.down(&owner).await;
    });
}

#[test]
fn signal_to_all_stays_in_its_container() {
    let bed = bed_or_skip!();
    let owner = Container::sh(IDLE);
    let joined = Container::sh("sleep 1000 & echo ready; wait").joining("pid", &owner);
    bed.block_on(async {
        let _outputs = (bed.up(&owner).await.unwrap(), bed.up(&joined).await.unwrap());
        bed.signal(&joined.id, "", 15, true).await.unwrap();
        assert_eq!(bed.wait(&joined.id, "").await.unwrap().0, 143);
        assert_eq!(bed.said_by_exec(&owner, &alive("1")).await, "alive\n");
        let sleepers = "ps | grep -c '[s]leep 1000' || true";
        assert_eq!(bed.said_by_exec(&owner, sleepers).await, "0\n");
        bed.down(&joined).await;
        bed.down(&owner).await;
    });
}

#[test]
fn exec_ends_with_a_container_that_shares_its_pid_namespace() {
    let bed = bed_or_skip!();
    let owner = Container::sh(IDLE);
    let joined = Container::sh(IDLE).joining("pid", &owner);
    bed.block_on(async {
        let _outputs = (bed.up(&owner).await.unwrap(), bed.up(&joined).await.unwrap());
        let stdio = bed.open_stdio(false).await.unwrap();
        let process = husk_tests::agent_bed::process(&["sleep", "1000"]);
        let exec = bed.exec(&joined.id, &process, &stdio).await.unwrap();
        bed.signal(&joined.id, "", 9, false).await.unwrap();
        assert_eq!(bed.wait(&joined.id, "").await.unwrap().0, 137);
        assert_eq!(bed.wait(&joined.id, &exec).await.unwrap().0, 137);
        bed.down(&joined).await;
        bed.down(&owner).await;
    });
}
