//! Replays what fuzzers have found worth keeping (`make fuzz`), on an ordinary compiler.

use std::fs;
use std::path::Path;

fn replay(target: &str, feed: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz/corpus").join(target);
    // Nothing was found yet: there is no folder of it.
    let files = |folder: &Path| {
        fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path())
    };
    let mut count = 0;
    for path in files(&folder).chain(files(&folder.join("found"))).filter(|path| path.is_file()) {
        let bytes = fs::read(&path).unwrap();
        // A panic names no file by itself.
        if std::panic::catch_unwind(|| feed(&bytes)).is_err() {
            panic!("{} makes the device panic", path.display());
        }
        count += 1;
    }
    assert!(count > 0, "nothing in {}", folder.display());
}

#[test]
fn chains_of_the_corpus_are_survived() {
    replay("queue", super::queue);
}

#[test]
fn registers_of_the_corpus_are_survived() {
    replay("registers", super::registers);
}

#[test]
fn the_entropy_device_survives_its_corpus() {
    replay("rng", super::rng);
}

#[test]
fn the_disk_survives_its_corpus() {
    replay("block", super::block);
}

#[test]
fn the_console_survives_its_corpus() {
    replay("console", super::console);
}

#[test]
fn vsock_packets_of_the_corpus_are_survived() {
    replay("vsock_packets", super::vsock_packets);
}

#[test]
fn vsock_queues_of_the_corpus_are_survived() {
    replay("vsock_queues", super::vsock_queues);
}

#[test]
fn the_balloon_survives_its_corpus() {
    replay("balloon", super::balloon);
}

#[test]
fn virtio_mem_survives_its_corpus() {
    replay("mem", super::mem);
}

#[test]
fn kernels_of_the_corpus_boot_or_are_refused() {
    replay("kernel", super::kernel);
}

#[test]
fn the_network_device_survives_its_corpus() {
    replay("net", super::net);
}
