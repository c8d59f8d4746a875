//! Namespaces that a container cannot have: what is said, and that nothing of it is left.

use husk_protocols::error::ErrorKind;
use husk_tests::agent_bed::{Bed, Container};
use serde_json::json;

use crate::{bed_or_skip, namespaces::IDLE, refusal};

/// The refusal's words; the container is not there.
fn words(bed: &Bed, container: &Container) -> String {
    let refused = refusal(bed.run(container));
    assert_eq!(refused.kind, ErrorKind::Invalid, "{refused:?}");
    assert!(!bed.block_on(bed.list()).unwrap().contains(&container.id));
    refused.message
}

#[test]
fn namespace_that_is_there_twice_is_refused() {
    let bed = bed_or_skip!();
    let mut container = Container::sh("true");
    container.spec["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "uts"}));
    assert_eq!(words(bed, &container), "linux.namespaces[uts]: is there twice");
}

#[test]
fn path_that_is_no_namespace_is_refused() {
    let bed = bed_or_skip!();
    for (path, part) in [
        ("/proc/1/status", "/proc/1/status is no namespace"),
        ("/dev/null", "/dev/null is no namespace"),
        ("/", "/ is no namespace"),
        ("/no/such", "open /no/such: no such file"),
        ("proc/1/ns/ipc", "is not absolute"),
        ("/proc/../ns/ipc", "has a .. in it"),
    ] {
        let said = words(bed, &Container::sh("true").joining_path("ipc", path));
        assert!(said.starts_with("linux.namespaces[ipc].path: ") && said.contains(part), "{said}");
    }
}

#[test]
fn namespace_of_another_kind_is_refused() {
    let bed = bed_or_skip!();
    let said = words(bed, &Container::sh("true").joining_path("ipc", "/proc/1/ns/uts"));
    assert_eq!(said, "linux.namespaces[ipc].path: /proc/1/ns/uts is no ipc namespace");
    let path = "/run/husk/containers/some/ns/uts";
    let said = words(bed, &Container::sh("true").joining_path("ipc", path));
    assert!(said.contains("/run/husk/containers/ID/ns/ipc"), "{said}");
}

#[test]
fn namespace_of_a_container_that_is_gone_is_refused() {
    let bed = bed_or_skip!();
    let gone = Container::sh(IDLE);
    let joining = Container::sh("true").joining("network", &gone);
    let field = "linux.namespaces[network].path";
    assert_eq!(words(bed, &joining), format!("{field}: no such container: {}", gone.id));
    bed.block_on(bed.up(&gone)).unwrap();
    bed.block_on(async {
        bed.signal(&gone.id, "", 9, true).await.unwrap();
        bed.wait(&gone.id, "").await.unwrap();
    });
    assert_eq!(words(bed, &joining), format!("{field}: container not running"));
    bed.block_on(bed.delete(&gone.id)).unwrap();
    assert_eq!(words(bed, &joining), format!("{field}: no such container: {}", gone.id));
}

#[test]
fn guests_own_user_namespace_is_not_joined() {
    let bed = bed_or_skip!();
    let said = words(bed, &Container::sh("true").joining_path("user", "/proc/1/ns/user"));
    assert!(said.starts_with("linux.namespaces[user].path: cannot be entered"), "{said}");
}

#[test]
fn guests_own_mount_namespace_is_refused() {
    let bed = bed_or_skip!();
    let refused = refusal(bed.run(&Container::sh("true").without_namespace("mount")));
    assert_eq!(refused.kind, ErrorKind::Unsupported);
    assert_eq!(refused.message, "linux.namespaces without mount is not supported");
}

#[test]
fn names_need_a_uts_namespace() {
    let bed = bed_or_skip!();
    let said = words(bed, &Container::sh("true").without_namespace("uts"));
    assert_eq!(said, "hostname: needs a uts namespace, new or joined");
}

#[test]
fn sysctl_of_a_namespace_that_is_the_guests_is_refused() {
    let bed = bed_or_skip!();
    let container = Container::sh("true")
        .without_namespace("network")
        .with("/linux/sysctl", json!({"net.core.somaxconn": "1"}));
    let refused = refusal(bed.run(&container));
    assert!(refused.message.contains("use --guest-sysctl"), "{refused:?}");
}

#[test]
fn joined_mount_namespace_takes_no_root_and_no_mounts() {
    let bed = bed_or_skip!();
    let owner = Container::sh(IDLE);
    bed.block_on(bed.up(&owner)).unwrap();
    let said = words(bed, &Container::sh("true").joining("mount", &owner));
    assert_eq!(said, "mounts: cannot be set in a mount namespace that is joined");
    let masked = Container::sh("true")
        .without_root()
        .joining("mount", &owner)
        .with("/linux/maskedPaths", json!(["/proc/kcore"]));
    assert!(words(bed, &masked).starts_with("linux.maskedPaths: cannot be set"));
    bed.block_on(bed.down(&owner));
    assert_eq!(words(bed, &Container::sh("true").without_root()), "rootfs: is missing");
}

#[test]
fn mappings_that_make_no_user_namespace_are_refused() {
    let bed = bed_or_skip!();
    let map = |inside: u32, outside: u32, size: u32| json!({"containerID": inside, "hostID": outside, "size": size});
    for (list, part) in [
        (json!([]), "is needed by a new user namespace"),
        (json!([map(0, 1000, 0)]), "has a size of 0"),
        (json!([map(0, 1000, 10), map(5, 2000, 10)]), "containerID 5 is mapped twice"),
        (json!([map(0, 1000, 10), map(10, 1005, 10)]), "hostID 1005 is mapped twice"),
        (json!([map(0, u32::MAX, 10)]), "leaves the ids"),
        (json!([map(1, 1000, 10)]), "maps no container id 0"),
    ] {
        let container =
            Container::sh("true").user_namespace().with("/linux/uidMappings", list.clone());
        let said = words(bed, &container);
        assert!(said.starts_with("linux.uidMappings: ") && said.contains(part), "{said}");
        let container = Container::sh("true").user_namespace().with("/linux/gidMappings", list);
        assert!(words(bed, &container).starts_with("linux.gidMappings: "));
    }
    let without = Container::sh("true").with("/linux/uidMappings", json!([map(0, 0, 10)]));
    assert_eq!(words(bed, &without), "linux.uidMappings: needs a user namespace");
}

#[test]
fn mount_that_does_not_belong_to_the_user_namespace_is_refused() {
    let bed = bed_or_skip!();
    let user = || Container::sh("true").user_namespace();
    for (kind, mount) in [("pid", "/proc"), ("network", "/sys"), ("ipc", "/dev/mqueue")] {
        let said = words(bed, &user().without_namespace(kind));
        let expected =
            format!("mounts[{mount}]: needs a {kind} namespace that belongs to the user namespace");
        assert_eq!(said, expected);
    }
    let unmapped = user().mount(json!({
        "destination": "/data", "type": "tmpfs", "source": "tmpfs", "options": ["gid=70000"],
    }));
    let said = words(bed, &unmapped);
    assert_eq!(said, "mounts[/data].options: gid=70000 is not in linux.gidMappings");
}
