//! Calls about the VM as a whole.

use std::{
    path::Path,
    time::{Duration, SystemTime},
};

use husk_protocols::agent::{File, SetupRequest};
use husk_tests::agent_bed::{Bed, Container};
use husk_tests::wait::eventually;
use serde_json::json;

use crate::{bed_or_skip, output};

#[test]
fn agent_says_who_it_is_and_stays_small() {
    let bed = bed_or_skip!();
    let info = bed.block_on(bed.info()).unwrap();
    assert_eq!(info.agent_version, bed.hello.agent_version);
    assert_eq!(info.online_cpus, 1);
    assert!(info.memory_total_bytes > 256 << 20);
    // Others ask it for much meanwhile: it is small again.
    let small = || {
        let resident = bed.block_on(bed.info()).unwrap().agent_resident_bytes;
        (1 << 20..6 << 20).contains(&resident).then_some(())
    };
    eventually("the agent is small", small);
}

#[test]
fn files_and_clock_of_the_host_reach_containers() {
    let bed = bed_or_skip!();
    let file = File {
        name: "hosts".to_owned(),
        content: b"127.0.0.1 localhost\n".to_vec(),
        mode: 0o644,
        ..Default::default()
    };
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let setup = SetupRequest {
        hostname: "guest".to_owned(),
        files: vec![file],
        wall_clock_ns: u64::try_from(now.as_nanos()).unwrap(),
        ..Default::default()
    };
    bed.block_on(bed.set_up(setup)).unwrap();
    let container = Container::sh("cat /etc/hosts; date +%s").mount(json!({
        "destination": "/etc/hosts", "type": "bind", "source": "/run/husk/files/hosts",
        "options": ["bind", "ro"],
    }));
    let said = output(bed, &container);
    let (hosts, clock) = said.split_once('\n').unwrap();
    assert_eq!(hosts, "127.0.0.1 localhost");
    let clock: u64 = clock.trim().parse().unwrap();
    assert!(clock >= now.as_secs() && clock < now.as_secs() + 300, "{clock}");
}

#[test]
fn file_that_leaves_its_folder_is_refused() {
    let bed = bed_or_skip!();
    for name in ["../x", "a/b", "", "/x"] {
        let file = File { name: name.to_owned(), ..Default::default() };
        let setup = SetupRequest { files: vec![file], ..Default::default() };
        assert!(bed.block_on(bed.set_up(setup)).is_err(), "{name:?}");
    }
}

#[test]
fn shutdown_ends_containers_and_the_machine() {
    if crate::bed().is_none() {
        return;
    }
    let bed = Bed::boot(Path::new(env!("CARGO_TARGET_TMPDIR"))).unwrap();
    let container = Container::sh("sleep 1000");
    bed.block_on(async {
        let stdio = bed.open_stdio(false).await.unwrap();
        bed.create(&container, &stdio).await.unwrap();
        bed.start(&container.id).await.unwrap();
        bed.shut_down().await.unwrap();
        // The machine goes down, and its vsock device with it.
        let gone = async {
            while bed.open().await.is_ok() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), gone).await.expect("the VM ends");
    });
}
