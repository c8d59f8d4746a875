//! Tests of the configuration: each bad input by itself.

use serde_json::json;

use super::*;

fn machine() -> Config {
    Config {
        kvm: 3,
        control: 4,
        kernel: 5,
        initramfs: Some(6),
        console: Some(7),
        command_line: vec!["quiet".into(), "root=\"a\"".into()],
        vcpus: Vcpus { online: 1, max: 2 },
        memory: Memory { mib: 64, hotplug_mib: 0 },
        start_paused: false,
        devices: Devices {
            disks: vec![disk(8, "image"), disk(9, "disk")],
            vsock: Some(Vsock { host: 10, guest_cid: 3, host_cid: 2 }),
            rng: true,
            ..Devices::default()
        },
    }
}

fn disk(file: RawFd, serial: &str) -> blk::Config {
    serde_json::from_value(json!({ "file": file, "serial": serial, "read_only": true })).unwrap()
}

fn net(tap: RawFd, mac: &str) -> net::Config {
    serde_json::from_value(json!({ "tap": tap, "mac": mac })).unwrap()
}

fn share(socket: RawFd, tag: &str) -> fs::Config {
    fs::Config { socket, tag: tag.into(), request_queues: 1 }
}

/// Why the machine is refused after a change: one line.
fn refusal(change: impl FnOnce(&mut Config)) -> String {
    let mut config = machine();
    change(&mut config);
    let line = config.validate().unwrap_err().to_string();
    assert_eq!(line.lines().count(), 1, "{line}");
    line
}

#[test]
fn machine_is_the_same_on_both_ends_of_the_pipe() {
    let config = machine();
    config.validate().unwrap();
    let text = serde_json::to_string(&config).unwrap();
    assert_eq!(serde_json::from_str::<Config>(&text).unwrap(), config);
}

#[test]
fn least_machine_is_short() {
    let text = json!({
        "kvm": 3, "control": 4, "kernel": 5,
        "vcpus": {"online": 1, "max": 1}, "memory": {"mib": 32},
    });
    let config: Config = serde_json::from_value(text).unwrap();
    config.validate().unwrap();
    assert_eq!(config.device_count(), 0);
}

#[test]
fn fields_that_nobody_knows_and_a_second_vsock_are_refused() {
    let text = serde_json::to_string(&machine()).unwrap();
    for (from, to) in [
        ("{\"kvm\":3", "{\"kvm\":3,\"dev\":3"),
        ("\"rng\":true", "\"rng\":true,\"gpu\":true"),
        ("\"max\":2", "\"max\":2,\"sockets\":1"),
        ("\"serial\":", "\"path\":\"/etc\",\"serial\":"),
        ("\"vsock\":", "\"vsock\":null,\"vsock\":"),
    ] {
        let bad = text.replacen(from, to, 1);
        assert_ne!(bad, text, "{from}");
        assert!(serde_json::from_str::<Config>(&bad).is_err(), "{to}");
    }
}

#[test]
fn processors_are_1_to_32() {
    for (online, max) in [(0, 0), (0, 1), (2, 1), (1, 33), (1000, 1000), (u32::MAX, u32::MAX)] {
        let line = refusal(|config| config.vcpus = Vcpus { online, max });
        assert!(line.contains(&format!("{online} of {max}")), "{line}");
    }
    let mut config = machine();
    config.vcpus = Vcpus { online: 32, max: 32 };
    config.validate().unwrap();
}

#[test]
fn memory_is_32_mib_to_what_the_host_has() {
    for mib in [0, 31, u32::MAX] {
        let line = refusal(|config| config.memory.mib = mib);
        assert!(line.contains(&mib.to_string()), "{line}");
    }
    refusal(|config| config.memory.hotplug_mib = u32::MAX);
}

#[test]
fn devices_that_appear_twice_are_refused() {
    let mac = "02:00:00:00:00:01";
    for (change, what) in [
        (
            Box::new(|config: &mut Config| config.devices.disks.push(disk(20, "image")))
                as Box<dyn FnOnce(&mut Config)>,
            "disk serial image",
        ),
        (Box::new(|config| config.devices.disks.push(disk(9, "third"))), "descriptor 9"),
        (Box::new(|config| config.kernel = config.kvm), "descriptor 3"),
        (
            Box::new(move |config| config.devices.nets = vec![net(20, mac), net(21, mac)]),
            "network address 02:00:00:00:00:01",
        ),
        (
            Box::new(move |config| {
                config.devices.shares = vec![share(20, "home"), share(21, "home")]
            }),
            "file system tag home",
        ),
    ] {
        assert_eq!(refusal(change), format!("{what} appears twice"));
    }
}

#[test]
fn bus_has_room_for_19_devices() {
    let fill = |config: &mut Config, count: i32| {
        config.devices.disks = (0..count).map(|i| disk(20 + i, &format!("disk{i}"))).collect();
    };
    let mut config = machine();
    // With vsock and rng.
    fill(&mut config, 17);
    config.validate().unwrap();
    assert!(refusal(|config| fill(config, 18)).starts_with("20 devices"));
    config.memory.hotplug_mib = 128;
    assert!(matches!(config.validate(), Err(ConfigError::Devices { count: 20 })));
}

#[test]
fn names_that_a_guest_cannot_find_are_refused() {
    for serial in ["", "a b", "a,b", "ä", "../x", "123456789012345678901"] {
        let line = refusal(|config| config.devices.disks[0].serial = serial.into());
        assert!(line.starts_with("disk serial"), "{line}");
    }
    refusal(|config| config.devices.shares = vec![share(20, "")]);
}

#[test]
fn addresses_are_of_one_guest() {
    for (guest_cid, host_cid) in [(0, 2), (2, 2), (u32::MAX, 2), (7, 7)] {
        let vsock = Vsock { host: 10, guest_cid, host_cid };
        let line = refusal(|config| config.devices.vsock = Some(vsock));
        assert!(line.starts_with(&format!("vsock address {guest_cid}")), "{line}");
    }
}

#[test]
fn standard_streams_are_no_ones_descriptors() {
    for number in [-1, 0, 2, i32::MIN] {
        let line = refusal(|config| config.kernel = number);
        assert!(line.starts_with(&format!("descriptor {number} of the kernel")), "{line}");
    }
}

#[test]
fn words_of_the_command_line_are_single_words() {
    for word in ["", "a b", "a\tb", "a\nb", "a\0b"] {
        refusal(|config| config.command_line.push(word.into()));
    }
}
