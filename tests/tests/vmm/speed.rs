//! Cases that benches measure: here only that they work. No test asserts a time.

use husk_tests::bare_bed::Setup;

use super::{folder, pass};

#[test]
fn throughput_of_a_disk_is_said() {
    for case in ["speed-blk-write mib=8", "speed-blk-read mib=8"] {
        let folder = folder();
        let Some(ended) = pass(&Setup { rng: false, ..Setup::new(case) }.disk(&folder, 8)) else {
            return;
        };
        assert_eq!(ended.values("rate ").len(), 1, "{ended}");
        eprintln!("{case}: {}", ended.values("rate ")[0]);
    }
}

#[test]
fn first_instruction_is_seen() {
    let Some(ended) = pass(&Setup { rng: false, ..Setup::new("hello") }) else { return };
    eprintln!("exec to first byte: {:?}", ended.first_byte.expect("a byte came"));
}

#[test]
fn cost_of_exits_is_said() {
    let Some(ended) = pass(&Setup::new("speed-exits")) else { return };
    eprintln!("{:?}", ended.values("exit "));
}
