//! Replays what fuzzers have found worth keeping (`make fuzz`), on an ordinary compiler.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::{fs, path::Path};

use husk_agent::input;

fn replay(target: &str, feed: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/corpus").join(target);
    let files = |folder: &Path| fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut count = 0;
    for path in files(&folder).chain(files(&folder.join("found"))).filter(|path| path.is_file()) {
        let bytes = fs::read(&path).unwrap();
        // A panic names no file by itself.
        if std::panic::catch_unwind(|| feed(&bytes)).is_err() {
            panic!("{} makes the agent panic", path.display());
        }
        count += 1;
    }
    assert!(count > 0, "nothing in {}", folder.display());
}

#[test]
fn specs_of_the_corpus_are_read_or_refused() {
    replay("spec", input::spec);
}

#[test]
fn processes_of_the_corpus_are_read_or_refused() {
    replay("process", input::process);
}

#[test]
fn requests_of_the_corpus_are_read_or_refused() {
    replay("request", input::request);
}
