//! `husk doctor`, and the configuration file.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;

use husk_tests::{BUSYBOX, Bed};
use serde_json::Value;

fn checks(output: &husk_tests::run::Output) -> Vec<Value> {
    output.out().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn state<'a>(checks: &'a [Value], name: &str) -> &'a str {
    let check = checks.iter().find(|check| check["Check"] == name);
    check.unwrap_or_else(|| panic!("no check of {name}"))["State"].as_str().unwrap()
}

#[test]
fn machine_that_runs_containers_is_well() {
    let bed = Bed::empty();
    let output = bed.husk(&["doctor", "--format", "json"]).ok();
    let checks = checks(&output);
    for name in ["configuration", "hypervisor", "guest image", "data folder", "mke2fs"] {
        assert_eq!(state(&checks, name), "ok");
    }
    // What does not work comes with what to do about it.
    for check in &checks {
        assert_eq!(check["State"] == "ok", check["Advice"] == "", "{check}");
    }
    bed.assert_nothing_left();
}

#[test]
fn machine_without_any_hypervisor_is_unwell() {
    let bed = Bed::empty();
    // Whatever KVM is good for here: QEMU is asked for.
    let config = bed.path("config.toml");
    fs::write(&config, "hypervisor = \"qemu\"\n").unwrap();
    let run = bed.husk(&["doctor", "--format", "json"]).env("PATH", "/nowhere");
    let output = run.env("HUSK_CONFIG", &config).output().code(1);
    let checks = checks(&output);
    assert_eq!(state(&checks, "qemu"), "not usable");
    assert_eq!(state(&checks, "hypervisor"), "broken");
    assert!(output.err().starts_with("husk: doctor: no container can run"), "{}", output.err());
}

#[test]
fn doctor_says_what_to_do_about_a_missing_guest_image() {
    let bed = Bed::empty();
    let output = bed.husk(&["doctor"]).env("HUSK_GUEST_DIR", bed.path("none")).output().code(1);
    assert!(output.out().contains("guest image: build it with make rootfs"), "{}", output.out());
}

#[test]
fn wrong_configuration_is_refused_with_its_line_and_changes_nothing() {
    let bed = Bed::empty();
    let config = bed.path("config.toml");
    fs::write(&config, "# mine\nhypervsor = \"qemu\"\n").unwrap();
    let words = ["config.toml, line 2: unknown field `hypervsor`"];
    let run = |words: &[&str]| bed.husk(words).env("HUSK_CONFIG", &config).output();
    run(&["ps"]).refused_with(125, &words);
    run(&["run", BUSYBOX]).refused_with(125, &words);
    assert!(run(&["doctor"]).code(1).out().contains(words[0]));
    run(&["version"]).code(0);
    let gone = bed.husk(&["ps"]).env("HUSK_CONFIG", bed.path("gone.toml")).output();
    gone.refused_with(125, &["read configuration", "gone.toml"]);
    bed.assert_nothing_left();
}

#[test]
fn variables_that_let_nothing_run_are_told_by_the_doctor_as_by_run() {
    let bed = Bed::new();
    let run = |words: &[&str], name: &str, value: &OsStr| bed.husk(words).env(name, value).output();
    for value in [OsStr::new("soon"), OsStr::new("0"), OsStr::from_bytes(b"\xff")] {
        let text = "HUSK_GUEST_TIMEOUT=";
        let doctor = run(&["doctor"], "HUSK_GUEST_TIMEOUT", value).code(1);
        assert!(doctor.out().contains(text), "{}", doctor.out());
        let words = ["run", "--rm", BUSYBOX, "true"];
        run(&words, "HUSK_GUEST_TIMEOUT", value).refused_with(125, &[text]);
    }
    let unknown = run(&["doctor"], "HUSK_HYPERVISOR", OsStr::new("xen"));
    unknown.refused_with(125, &["unknown hypervisor \"xen\""]);
    // What is asked of run is looked at.
    let output = bed.husk(&["doctor", "--format", "json"]).env("PATH", "/nowhere");
    let output = output.env("HUSK_HYPERVISOR", "qemu").output().code(1);
    assert_eq!(state(&checks(&output), "hypervisor"), "broken");
    // A monitor would look for it in another folder.
    let relative = run(&["run", BUSYBOX], "HUSK_CONFIG", OsStr::new("config.toml"));
    relative.refused_with(125, &["HUSK_CONFIG=config.toml: not an absolute path"]);
    bed.assert_nothing_left();
}

#[test]
fn container_to_be_removed_is_gone_when_its_monitor_cannot_come_up() {
    let bed = Bed::new();
    let words = ["run", "--rm", BUSYBOX, "true"];
    let run = bed.husk(&words).env("HUSK_RUNTIME_DIR", "/proc/husk");
    run.output().refused_with(125, &["bind /proc/husk"]);
    bed.assert_nothing_left();
}

#[test]
fn words_that_are_no_text_are_refused() {
    let bed = Bed::empty();
    let script = "exec \"$H\" run --kernel-arg \"$(printf '\\377')\" busybox true";
    let run = bed.program("sh", &["-c", script]).env("H", bed.bin());
    run.output().refused_with(125, &["UTF-8"]);
}

#[test]
fn flag_goes_before_variable_and_variable_before_the_file() {
    let bed = Bed::new();
    let config = bed.path("config.toml");
    fs::write(&config, "hypervisor = \"qemu\"\n").unwrap();
    let create = |name: &str, flags: &[&str], variable: Option<&str>| {
        let words = [&["create", "--name", name], flags, &[BUSYBOX]].concat();
        let run = bed.husk(&words).env("HUSK_CONFIG", &config);
        match variable {
            Some(word) => run.env("HUSK_HYPERVISOR", word).ok(),
            None => run.without("HUSK_HYPERVISOR").ok(),
        };
        bed.inspect(name)["Husk"]["Hypervisor"]["Requested"].as_str().unwrap().to_owned()
    };
    assert_eq!(create("file", &[], None), "qemu");
    assert_eq!(create("variable", &[], Some("auto")), "auto");
    assert_eq!(create("flag", &["--hypervisor", "kvm"], Some("auto")), "kvm");
    for name in ["file", "variable", "flag"] {
        bed.husk(&["rm", name]).ok();
    }
    bed.assert_nothing_left();
}
