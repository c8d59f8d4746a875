//! Guests that are not what husk put there: an /init that lies, floods or says nothing. The host
//! answers with one line, keeps its memory and its disk, and leaves nothing.

use std::fs;
use std::path::PathBuf;

use husk_tests::run::Output;
use husk_tests::{BUSYBOX, Bed, guest};

/// Bounds of what one guest may leave on disk: console logs are two files of this at most.
const CONSOLE_BYTES: u64 = 1 << 20;

/// A guest image whose init behaves as `mode` says: see tests/guest-inits.
fn hostile_guest(bed: &Bed, mode: &str) -> PathBuf {
    let folder = bed.path(&format!("guest-{mode}"));
    let program = fs::read(guest::init_program("hostile-init")).unwrap();
    guest::write(&folder, bed.guest(), &[("init", &program), ("mode", mode.as_bytes())]).unwrap();
    folder
}

fn run_hostile(bed: &Bed, mode: &str) -> Output {
    let folder = hostile_guest(bed, mode);
    // Enough for a boot; one that lies may also say nothing for so long.
    let run = bed.run(&[], &["true"]).env("HUSK_GUEST_DIR", &folder);
    run.env("HUSK_GUEST_TIMEOUT", "30").output()
}

#[test]
fn agent_of_another_version_is_refused_with_both_versions() {
    let bed = Bed::new();
    let own = format!("this husk speaks {}", husk_protocols::PROTOCOL_VERSION);
    let words = ["9.9.9", "protocol 77", own.as_str(), "make rootfs"];
    run_hostile(&bed, "version").refused_with(125, &words);
    bed.assert_nothing_left();
}

#[test]
fn guest_that_does_not_speak_as_an_agent_is_refused() {
    let bed = Bed::new();
    run_hostile(&bed, "garbage").refused_with(125, &["did not speak as a husk agent"]);
    bed.assert_nothing_left();
    run_hostile(&bed, "close").refused_with(125, &["hello"]);
    bed.assert_nothing_left();
}

#[test]
fn guest_that_powers_off_at_once_is_told_with_its_phase() {
    let bed = Bed::new();
    run_hostile(&bed, "off").refused_with(125, &["run busybox:latest", "ended with"]);
    bed.assert_nothing_left();
    run_hostile(&bed, "hello-off").refused_with(125, &["run busybox:latest", "ended with"]);
    bed.assert_nothing_left();
}

#[test]
fn answers_of_a_liar_are_refused() {
    let bed = Bed::new();
    for mode in ["giant", "nonsense"] {
        let line = run_hostile(&bed, mode).refused_with(125, &["set the sandbox up"]);
        assert!(line.len() < 1000, "{mode}: {line}");
        bed.assert_nothing_left();
    }
}

#[test]
fn flood_on_the_console_is_bounded() {
    let bed = Bed::new();
    let folder = hostile_guest(&bed, "flood");
    let words = ["run", "--name", "box", BUSYBOX, "true"];
    let output = bed.husk(&words).env("HUSK_GUEST_DIR", &folder).output();
    output.refused_with(125, &["run box", "ended with"]);
    let id = bed.inspect("box")["Id"].as_str().unwrap().to_owned();
    let mut bytes = 0;
    for entry in fs::read_dir(bed.data().join("containers").join(id)).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name().to_string_lossy().starts_with("console.log") {
            bytes += entry.metadata().unwrap().len();
        }
    }
    assert!(bytes > 0 && bytes <= 2 * CONSOLE_BYTES, "{bytes}");
    bed.husk(&["rm", "box"]).ok();
}

#[test]
fn guest_that_says_nothing_is_an_error_within_its_deadline() {
    let bed = Bed::new();
    let folder = hostile_guest(&bed, "silent");
    let output = bed
        .run(&[], &["true"])
        .env("HUSK_GUEST_DIR", &folder)
        .env("HUSK_GUEST_TIMEOUT", "4")
        .output();
    output.refused_with(125, &["did not answer within 4 s", "still runs"]);
    bed.assert_nothing_left();
}

#[test]
fn deadline_that_is_none_is_refused() {
    let bed = Bed::new();
    for value in ["soon", "0", "-1", "1000000"] {
        let output = bed.run(&[], &["true"]).env("HUSK_GUEST_TIMEOUT", value).output();
        output.refused_with(125, &["HUSK_GUEST_TIMEOUT", value]);
    }
    bed.assert_nothing_left();
}
