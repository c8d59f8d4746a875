//! Drivers that do what no honest one does, to each device: the machine outlives them, and the
//! device works after a reset.

use husk_tests::bare_bed::{Setup, Share, Size, Tap, Virtiofsd, YesServer};
use husk_vmm::control::Request;

use super::{DEADLINE, folder, kvm_or_skip, pass, start};

/// Of tests/bare-metal, each against one queue of one device.
const MOVES: [&str; 17] = [
    "hostile-descriptors",
    "hostile-indirect",
    "hostile-loops",
    "hostile-available",
    "hostile-frozen",
    "hostile-rings",
    "hostile-used-ring-unmapped",
    "hostile-no-queues",
    "hostile-order",
    "hostile-features",
    "hostile-config",
    "hostile-widths",
    "hostile-queue-numbers",
    "hostile-kick-storm kicks=2000",
    "hostile-ring-flood",
    "hostile-resets",
    "hostile-noise seed=7 rounds=100",
];

/// Every move against the queues of the device of this type. The balloon's third queue is the one
/// of the feature that is taken.
fn attack(kind: u32, queues: &[&str], mut setup: impl FnMut(&str) -> Option<Setup>) {
    let mut failed = Vec::new();
    for hostile in MOVES {
        for queue in queues {
            let Some(setup) = setup(&format!("{hostile} kind={kind} {queue}")) else {
                return;
            };
            let kvm = kvm_or_skip!();
            let ended = start(&setup, kvm).finish(DEADLINE);
            eprintln!("{hostile}, device {kind}, {queue}:\n{}", ended.serial);
            let success = ended.status.is_some_and(|status| status.success());
            if !success || !ended.serial.ends_with("PASSED\n") {
                failed.push(ended.to_string());
            }
        }
    }
    assert!(failed.is_empty(), "{} fail:\n{}", failed.len(), failed.join("\n\n"));
}

#[test]
fn entropy_device_outlives_every_hostile_move() {
    attack(4, &["queue=0"], |case| Some(Setup::new(case)));
}

#[test]
fn disk_outlives_every_hostile_move_and_keeps_its_content() {
    let folder = folder();
    let image = || std::fs::read(folder.path().join("disk0")).unwrap();
    attack(2, &["queue=0"], |case| {
        let mut setup = Setup { rng: false, ..Setup::new(case) }.disk(&folder, 4);
        setup.disks[0].read_only = true;
        Some(setup)
    });
    if folder.path().join("disk0").exists() {
        assert!(image().iter().all(|byte| *byte == 0), "a read-only disk was written");
    }
}

#[test]
fn vsock_device_outlives_every_hostile_move() {
    let setup = |case: &str| Some(Setup { rng: false, vsock: true, ..Setup::new(case) });
    attack(19, &["queue=0", "queue=1"], setup);
}

#[test]
fn balloon_outlives_every_hostile_move() {
    let size = Size { balloon_mib: Some(0), ..Size::default() };
    let setup = |case: &str| Some(Setup { rng: false, size, ..Setup::new(case) });
    attack(5, &["queue=0", "queue=1", "queue=2 features=0x20"], setup);
}

#[test]
fn memory_device_outlives_every_hostile_move() {
    let size = Size { hotplug_mib: 128, ..Size::default() };
    let setup = |case: &str| Some(Setup { rng: false, size, ..Setup::new(case) });
    attack(24, &["queue=0"], setup);
}

#[test]
fn console_outlives_every_hostile_move() {
    let setup = |case: &str| Some(Setup { rng: false, console: true, ..Setup::new(case) });
    attack(3, &["queue=0", "queue=1"], setup);
}

#[test]
fn network_device_outlives_every_hostile_move() {
    attack(1, &["queue=0", "queue=1"], |case| match Tap::new() {
        Ok(tap) => Some(Setup { rng: false, tap: Some(tap), ..Setup::new(case) }),
        Err(error) => {
            eprintln!("SKIPPED: make a tap: {error}");
            None
        }
    });
}

#[test]
fn file_system_device_outlives_every_hostile_move() {
    attack(26, &["queue=0", "queue=1"], |case| {
        let (_server, socket) = YesServer::start();
        let shares = vec![Share { tag: "share", socket }];
        Some(Setup { rng: false, shares, ..Setup::new(case) })
    });
}

/// The rings are the file server's to read, which may die of them.
#[test]
fn machine_outlives_every_hostile_move_against_virtiofsd() {
    let (folder, mut servers) = (folder(), Vec::new());
    attack(26, &["queue=0 mortal=1", "queue=1 mortal=1"], |case| {
        let (server, socket) = match Virtiofsd::start(folder.path(), false) {
            Ok(started) => started,
            Err(reason) => {
                eprintln!("SKIPPED: {reason}");
                return None;
            }
        };
        servers.clear();
        servers.push(server);
        let shares = vec![Share { tag: "share", socket }];
        Some(Setup { rng: false, shares, ..Setup::new(case) })
    });
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "something was written");
}

#[test]
fn malformed_chains_are_counted() {
    let kvm = kvm_or_skip!();
    let guest = start(&Setup::new("hostile-descriptors linger=1"), kvm);
    guest.expect("PASSED", DEADLINE);
    let devices = guest.statistics().devices;
    let count: u64 = devices.iter().filter_map(|device| device.counters.get("malformed")).sum();
    assert!(count > 0, "{devices:?}");
    guest.command(Request::Stop);
    guest.finish(DEADLINE);
}

#[test]
fn writes_that_come_too_late_or_make_no_sense_are_counted() {
    for (case, counter) in [
        ("hostile-frozen linger=1", "transport_ignored"),
        ("hostile-widths linger=1", "transport_bad_accesses"),
        ("hostile-rings linger=1", "transport_needed_resets"),
    ] {
        let kvm = kvm_or_skip!();
        let guest = start(&Setup::new(case), kvm);
        guest.expect("PASSED", DEADLINE);
        assert!(guest.counter("entropy", counter) > 0, "{case}: {:?}", guest.statistics());
        guest.command(Request::Stop);
        guest.finish(DEADLINE);
    }
}

#[test]
fn kick_storm_and_ring_flood_take_no_memory() {
    for case in ["hostile-kick-storm kicks=20000 linger=1", "hostile-ring-flood linger=1"] {
        let kvm = kvm_or_skip!();
        let guest = start(&Setup::new(case), kvm);
        guest.expect("PASSED", DEADLINE);
        if let Some(memory) = guest.statistics().memory {
            assert!(memory.own_kib < 32 << 10, "{memory:?}");
        }
        guest.command(Request::Stop);
        guest.finish(DEADLINE);
    }
}

#[test]
fn guest_that_floods_every_device_does_not_keep_the_host_from_what_it_wants() {
    let folder = folder();
    let kvm = kvm_or_skip!();
    let case = Setup::new("hostile-endless");
    let size = Size { balloon_mib: Some(0), hotplug_mib: 128, ..Size::default() };
    let setup = Setup { vsock: true, console: true, size, ..case };
    let guest = start(&setup.disk(&folder, 4), kvm);
    guest.expect("flooding", DEADLINE);
    let resets = || -> u64 {
        let devices = guest.statistics().devices;
        devices.iter().filter_map(|device| device.counters.get("transport_resets")).sum()
    };
    // The flood goes on while the host asks, and after a pause.
    for _ in 0..3 {
        let before = resets();
        let more = husk_tests::wait::within(DEADLINE, || (resets() > before).then_some(()));
        assert!(more.is_some(), "the guest floods no more");
        guest.command(Request::BalloonTarget { mib: 1 });
        guest.command(Request::MemTarget { mib: 128 });
        guest.command(Request::Pause);
        let paused = resets();
        assert_eq!(resets(), paused);
        guest.command(Request::MemTarget { mib: 0 });
        guest.command(Request::Resume);
    }
    guest.command(Request::Stop);
    let ended = guest.finish(DEADLINE);
    assert!(ended.status.is_some_and(|status| status.success()), "{ended}");
}

#[test]
fn noise_of_many_seeds_is_survived() {
    for seed in 1..20 {
        pass(&Setup::new(&format!("hostile-noise seed={seed} rounds=50")));
    }
    let folder = folder();
    for seed in 1..8 {
        for (kind, queues) in [(2, 1), (3, 2), (5, 2), (19, 2), (24, 1)] {
            let queue = seed % queues;
            let case = format!("hostile-noise kind={kind} queue={queue} seed={seed} rounds=50");
            let setup = Setup { rng: false, ..Setup::new(&case) };
            let setup = match kind {
                2 => setup.disk(&folder, 4),
                3 => Setup { console: true, ..setup },
                5 => setup.sized(Size { balloon_mib: Some(0), ..Size::default() }),
                19 => Setup { vsock: true, ..setup },
                _ => setup.sized(Size { hotplug_mib: 128, ..Size::default() }),
            };
            pass(&setup);
        }
    }
}
