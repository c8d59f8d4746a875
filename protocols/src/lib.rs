//! What host and guest say to each other: services, ids, ports, handshake, error kinds.
//! Shapes only: nothing here opens a socket or a file.

#[allow(missing_docs, clippy::all, clippy::pedantic, clippy::cast_possible_truncation)]
#[allow(clippy::cast_sign_loss, clippy::unwrap_used, clippy::too_many_lines)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/modules.rs"));
}

/// Messages of `proto/agent.proto`.
pub use generated::agent;
/// Services of `proto/agent.proto`: server traits and clients.
pub use generated::agent_ttrpc;

pub mod error;
pub mod handshake;
pub mod id;
pub mod port;
pub mod stream;

/// Version of everything in this crate that crosses the wire. Host and agent must agree exactly.
pub const PROTOCOL_VERSION: u32 = 2;

#[cfg(test)]
mod tests {
    use super::PROTOCOL_VERSION;

    /// The calls of a version. An agent that lacks one, or a field that a host counts on, would
    /// leave out what it is asked without a word.
    const CALLS: (u32, &str) = (
        2,
        "Sandbox.Setup Sandbox.Info Sandbox.Shutdown Containers.Create \
         Containers.Start Containers.Delete Containers.List Containers.Pause \
         Containers.Resume Containers.Update Containers.Stats Containers.Events \
         Processes.Exec Processes.Signal Processes.Wait Processes.Top \
         Stdio.Resize Stdio.CloseStdin Guest.SetHostname Guest.WriteFiles \
         Guest.SetDns Guest.SetHosts Guest.SetOnlineCpus Guest.SetClock \
         Guest.Reseed Guest.Logs Guest.Metrics Files.Stat \
         Files.CopyOut Files.CopyIn",
    );

    #[test]
    fn another_set_of_calls_has_another_version() {
        let mut service = "";
        let mut calls = Vec::new();
        for line in include_str!("../proto/agent.proto").lines() {
            let word = |rest: &'static str| rest.split([' ', '(']).next().unwrap_or_default();
            if let Some(rest) = line.strip_prefix("service ") {
                service = word(rest);
            } else if let Some(rest) = line.trim_start().strip_prefix("rpc ") {
                calls.push(format!("{service}.{}", word(rest)));
            }
        }
        assert_eq!((PROTOCOL_VERSION, calls.join(" ").as_str()), CALLS, "raise PROTOCOL_VERSION");
    }
}
