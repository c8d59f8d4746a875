//! Boot, run, exec, streams, disks, stop.

use std::fs;

use husk_tests::BUSYBOX;

use super::{Builtin, builtin_or_skip};

/// Bytes that a shifted, doubled or dropped part would change.
fn pattern(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..len.div_ceil(8)).flat_map(|_| next()).take(len).collect()
}

#[test]
fn container_runs_from_boot_to_exit_status() {
    let builtin = builtin_or_skip!();
    // Nothing runs while nothing is asked: each process takes an emulated kernel a second.
    let script = "echo out; echo err >&2; trap 'echo stopped; exit 7' TERM; sleep 100000 & wait";
    let words = ["run", "-d", "--name", "web", BUSYBOX, "sh", "-c", script];
    builtin.husk(&words).ok();
    told_by_inspect(&builtin);
    streams_are_whole(&builtin);
    disks_keep_what_is_written(&builtin);
    // As long as it takes: who is killed has not said what it says at its end.
    builtin.husk(&["stop", "-t", "600", "web"]).ok();
    assert_eq!(builtin.husk(&["wait", "web"]).ok().out(), "7");
    let logs = builtin.husk(&["logs", "web"]).ok();
    assert_eq!(logs.out(), "out\nstopped");
    assert_eq!(logs.err(), "err");
    builtin.husk(&["rm", "web"]).ok();
    builtin.bed.assert_nothing_left();
}

fn told_by_inspect(builtin: &Builtin) {
    let hypervisor = &builtin.bed.inspect("web")["Husk"]["Hypervisor"];
    assert_eq!(hypervisor["Requested"], "kvm");
    assert_eq!(hypervisor["Name"], "kvm");
    assert_eq!(hypervisor["Accelerator"], "kvm");
    let jail = &builtin.bed.inspect("web")["Husk"]["Jail"];
    assert_eq!(jail["capabilities"], "yes", "{jail}");
}

fn streams_are_whole(builtin: &Builtin) {
    let sent = pattern(300_000);
    let words = ["exec", "-i", "web", "sh", "-c", "cat; echo done >&2; exit 3"];
    let output = builtin.husk(&words).stdin(sent.clone()).output().code(3);
    assert!(output.stdout == sent, "{} of {} bytes came back", output.stdout.len(), sent.len());
    assert_eq!(output.err(), "done");
}

/// The writable layer and the image are disks of the VM.
fn disks_keep_what_is_written(builtin: &Builtin) {
    let sent = pattern(400_000);
    let script = "set -e; cat >/big; sync; echo 3 >/proc/sys/vm/drop_caches 2>/dev/null || true; \
                  cat /big";
    let words = ["exec", "-i", "web", "sh", "-c", script];
    let output = builtin.husk(&words).stdin(sent.clone()).output().code(0);
    assert!(output.stdout == sent, "{} bytes of the file came back", output.stdout.len());
    // The image's program is there, from its beginning to its end.
    let busybox = husk_tests::bed::busybox_program();
    let words = ["exec", "web", "sh", "-c", "wc -c </bin/busybox; md5sum </bin/busybox"];
    let told = builtin.husk(&words).output().code(0).out();
    let file = builtin.bed.path("busybox");
    fs::write(&file, busybox).unwrap();
    let sum = builtin.bed.program("md5sum", &[file.to_str().unwrap()]).ok().out();
    assert_eq!(told, format!("{}\n{}  -", busybox.len(), &sum[..32]));
}
