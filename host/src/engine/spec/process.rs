//! `process` of the runtime-spec: a container's first, and further ones.

use serde_json::{Value, json};

use super::capabilities;
use crate::engine::record::{Process, Rlimit, Security};

/// How much more a further process may than its container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Privilege {
    /// What the container has.
    Container,
    /// Every capability: `exec --privileged`.
    All,
}

/// `process` of the runtime-spec. A user is named, and looked up in the container by the agent.
/// `window` is rows and columns of the terminal, where one is known.
#[must_use]
pub fn process_spec(
    process: &Process,
    security: &Security,
    privilege: Privilege,
    window: Option<(u16, u16)>,
) -> Value {
    let capabilities = match privilege {
        Privilege::Container => capabilities::effective(security),
        Privilege::All => capabilities::ALL.to_vec(),
    };
    let mut spec = json!({
        "terminal": process.terminal,
        "user": user(process),
        "args": process.args,
        "env": process.env,
        "cwd": process.cwd,
        "capabilities": {
            "bounding": capabilities,
            "effective": capabilities,
            "permitted": capabilities,
        },
    });
    if security.no_new_privileges {
        spec["noNewPrivileges"] = json!(true);
    }
    if process.oom_score_adj != 0 {
        spec["oomScoreAdj"] = json!(process.oom_score_adj);
    }
    if !process.rlimits.is_empty() {
        spec["rlimits"] = process.rlimits.iter().map(rlimit).collect();
    }
    for (field, value) in
        [("apparmorProfile", &security.apparmor_profile), ("selinuxLabel", &security.selinux_label)]
    {
        if !value.is_empty() {
            spec[field] = json!(value);
        }
    }
    if let (true, Some((rows, columns))) = (process.terminal, window) {
        spec["consoleSize"] = json!({ "height": rows, "width": columns });
    }
    spec
}

/// Numbers go where the runtime-spec has them. Names are the container's own: the agent looks them
/// up, behind a second colon.
fn user(process: &Process) -> Value {
    let mut user = json!({ "uid": 0, "gid": 0 });
    let (numbers, names): (Vec<&String>, Vec<&String>) =
        process.groups.iter().partition(|group| group.parse::<u32>().is_ok());
    let numbers: Vec<u32> = numbers.iter().filter_map(|group| group.parse().ok()).collect();
    if !numbers.is_empty() {
        user["additionalGids"] = json!(numbers);
    }
    let mut name = process.user.clone();
    if !names.is_empty() {
        let names: Vec<&str> = names.into_iter().map(String::as_str).collect();
        let colon = if name.contains(':') { ":" } else { "::" };
        name = format!("{name}{colon}{}", names.join(","));
    }
    if !name.is_empty() {
        user["username"] = json!(name);
    }
    user
}

fn rlimit(limit: &Rlimit) -> Value {
    // What is negative is without end: RLIM_INFINITY of the kernel's.
    let value = |value: i64| u64::try_from(value).unwrap_or(u64::MAX);
    json!({
        "type": format!("RLIMIT_{}", limit.name.to_ascii_uppercase()),
        "soft": value(limit.soft),
        "hard": value(limit.hard),
    })
}
