//! The doors through which bytes of the host come in, as far as the first thing that is done with
//! them: for fuzzers, and for the tests that replay what those have found. Nothing here touches the
//! machine; whatever the bytes are, each function returns.

use serde::{Serialize, de::DeserializeOwned};

use crate::{
    cgroup::CgroupPlan,
    container::{
        link::{frame, unframe},
        plan::{InitPlan, parse_process, parse_spec},
    },
    server,
};

/// `config.json`, and its plans.
///
/// # Panics
/// When the plan does not survive the way to the second stage.
pub fn spec(bytes: &[u8]) {
    let Ok(spec) = parse_spec(bytes) else { return };
    let id = "fuzz".parse().expect("a plain id");
    // Read or refused: both will do.
    let _ = CgroupPlan::read(spec.linux().as_ref(), &id);
    if let Ok(plan) = InitPlan::read(&spec) {
        travel(&plan);
    }
}

/// `process` of a spec, for an exec.
///
/// # Panics
/// When the plan does not survive the way to the second stage.
pub fn process(bytes: &[u8]) {
    if let Ok(plan) = parse_process(bytes) {
        travel(&plan);
    }
}

/// A request: the first byte chooses the call, the others are its message.
pub fn request(bytes: &[u8]) {
    if let Some((call, message)) = bytes.split_first() {
        server::wire::decode(*call, message);
    }
}

fn travel<T: Serialize + DeserializeOwned>(plan: &T) {
    // One that is too long is refused.
    let Ok(sent) = frame(plan) else { return };
    let mut received = sent.clone();
    let again: T = unframe(&mut received)
        .expect("what was framed can be read")
        .expect("what was framed is whole");
    assert!(received.is_empty(), "a frame is taken out whole");
    assert_eq!(frame(&again).ok(), Some(sent), "a plan arrives as it was sent");
}
