//! `husk inspect`: docker's shape, and husk's own part.

use husk_tests::hypervisor::under_test;
use husk_tests::{BUSYBOX, Bed};
use serde_json::json;

#[test]
fn container_is_told_in_dockers_shape() {
    let bed = Bed::new();
    let words = [
        "run",
        "-d",
        "-i",
        "--name",
        "web",
        "-h",
        "web-1",
        "-e",
        "A=b",
        "-u",
        "user",
        "-w",
        "/tmp",
        "--read-only",
        "--tmpfs",
        "/scratch:size=1m",
        "-m",
        "128m",
        BUSYBOX,
        "sleep",
        "1000",
    ];
    let id = bed.husk(&words).ok().out();
    let web = bed.inspect("web");
    assert_eq!(web["Id"], id.as_str());
    assert_eq!(web["Name"], "/web");
    assert_eq!((&web["Path"], &web["Args"]), (&json!("sleep"), &json!(["1000"])));
    let state = &web["State"];
    assert_eq!((&state["Status"], &state["Running"]), (&json!("running"), &json!(true)));
    assert_eq!((&state["ExitCode"], &state["OOMKilled"]), (&json!(0), &json!(false)));
    assert!(state["Pid"].as_i64().unwrap() > 1);
    assert!(state["StartedAt"].as_str().unwrap().starts_with("20"));
    let config = &web["Config"];
    for (key, value) in [
        ("Hostname", json!("web-1")),
        ("User", json!("user")),
        ("WorkingDir", json!("/tmp")),
        ("Image", json!(BUSYBOX)),
        ("OpenStdin", json!(true)),
        ("Tty", json!(false)),
        ("Cmd", json!(["sleep", "1000"])),
    ] {
        assert_eq!(config[key], value, "{key}");
    }
    assert!(config["Env"].as_array().unwrap().contains(&json!("A=b")));
    let host = &web["HostConfig"];
    assert_eq!((&host["Memory"], &host["ReadonlyRootfs"]), (&json!(128 << 20), &json!(true)));
    assert_eq!(host["Tmpfs"], json!({ "/scratch": "size=1m" }));
    bed.husk(&["stop", "-t", "0", "web"]).ok();
    let state = bed.inspect("web")["State"].clone();
    assert_eq!((&state["Status"], &state["Running"]), (&json!("exited"), &json!(false)));
    assert_eq!((&state["Pid"], &state["ExitCode"]), (&json!(0), &json!(137)));
    assert!(state["FinishedAt"].as_str().unwrap().starts_with("20"));
}

#[test]
fn hypervisor_and_why_it_was_chosen_are_told() {
    let bed = Bed::new();
    bed.start_sh("box", "sleep 1000");
    let hypervisor = bed.inspect("box")["Husk"]["Hypervisor"].clone();
    assert_eq!(hypervisor["Requested"], json!(under_test().to_string()));
    let name = hypervisor["Name"].as_str().unwrap();
    let accelerator = hypervisor["Accelerator"].as_str().unwrap();
    assert!(
        matches!((name, accelerator), ("qemu", "tcg" | "kvm") | ("kvm", "kvm")),
        "{hypervisor}"
    );
    let reason = hypervisor["Reason"].as_str().unwrap();
    assert!(reason.to_lowercase().contains("kvm"), "{hypervisor}");
    // Only the built-in VMM has a jail to tell of.
    let jail = bed.inspect("box")["Husk"]["Jail"].clone();
    assert_eq!(jail.is_object(), name == "kvm", "{jail}");
    // What it says is what runs.
    let vmm = bed.vmms().pop().expect("a VMM runs");
    assert_eq!(i64::from(vmm.pid), bed.inspect("box")["State"]["Pid"]);
    assert_eq!(vmm.command.contains("qemu"), name == "qemu", "{}", vmm.command);
    assert!(name == "kvm" || vmm.command.contains(accelerator), "{}", vmm.command);
    bed.husk(&["create", "--hypervisor", "qemu", "--name", "qemu", BUSYBOX]).ok();
    assert_eq!(bed.inspect("qemu")["Husk"]["Hypervisor"]["Requested"], "qemu");
}

#[test]
fn templates_pick_what_they_name() {
    let bed = Bed::new();
    bed.husk(&["create", "--name", "box", BUSYBOX]).ok();
    let format = |text: &str| bed.husk(&["inspect", "-f", text, "box"]).output();
    assert_eq!(format("{{.Name}} {{.State.Status}}").code(0).out(), "/box created");
    assert_eq!(format("{{json .Args}}").code(0).out(), "[]");
    format("{{.Nope}}").refused_with(125, &["Nope"]);
    format("{{range .Args}}").refused(125);
    let image =
        bed.husk(&["inspect", "--type", "image", "-f", "{{.Os}}/{{.Architecture}}", BUSYBOX]);
    assert_eq!(image.ok().out(), "linux/amd64");
    bed.husk(&["inspect", "nope"]).output().code(125);
}
