//! Values of the flags that share what a container has to itself. There is nobody in its virtual
//! machine to share it with, and the host is out of its reach.

use crate::engine::record::Ipc;

/// `--network`.
pub fn network(text: &str) -> Result<String, String> {
    match text {
        "none" => Ok(text.to_owned()),
        "host" => Err("host is not supported: a container in a virtual machine cannot have the \
                       host's network"
            .to_owned()),
        _ => Err(format!("{text} is not supported yet: there is loopback alone (none)")),
    }
}

/// `--ipc`.
pub fn ipc(text: &str) -> Result<Ipc, String> {
    match text {
        "private" => Ok(Ipc::Private),
        "none" => Ok(Ipc::None),
        _ => Err(shared("IPC", text, "shareable")),
    }
}

/// `--pid`.
pub fn pid(text: &str) -> Result<String, String> {
    private("PID", text)
}

/// `--uts`.
pub fn uts(text: &str) -> Result<String, String> {
    private("UTS", text)
}

/// `--cgroupns`.
pub fn cgroup(text: &str) -> Result<String, String> {
    private("cgroup", text)
}

fn private(what: &str, text: &str) -> Result<String, String> {
    match text {
        "private" => Ok(text.to_owned()),
        _ => Err(shared(what, text, "")),
    }
}

fn shared(what: &str, text: &str, others: &str) -> String {
    if text == "host" {
        return format!(
            "host is not supported: a container in a virtual machine cannot have the host's \
             {what} namespace"
        );
    }
    if text.starts_with("container:") || (!others.is_empty() && text == others) {
        return format!(
            "{text} is not supported yet: every container has a virtual machine of its own"
        );
    }
    format!("invalid {what} mode: {text}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_shared_with_the_host_or_with_others() {
        assert_eq!((ipc("none"), pid("private")), (Ok(Ipc::None), Ok("private".to_owned())));
        for (result, words) in [
            (ipc("host").map(drop), "cannot have the host's IPC"),
            (ipc("shareable").map(drop), "not supported yet"),
            (ipc("container:web").map(drop), "not supported yet"),
            (pid("host").map(drop), "cannot have the host's PID"),
            (uts("host").map(drop), "cannot have the host's UTS"),
            (cgroup("host").map(drop), "cannot have the host's cgroup"),
            (pid("moon").map(drop), "invalid PID mode"),
            (network("host").map(drop), "not supported"),
            (network("bridge").map(drop), "not supported yet"),
        ] {
            let error = result.unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }
}
