//! Messages into the supervisor's own types.

use husk_protocols::{
    agent::{self, rootfs::Upper},
    error::{ErrorKind, to_ttrpc},
    id::ContainerId,
    stream::StreamToken,
};

use crate::{
    guest::{Dns, GuestError, HostFile, HostsEntry, Sysctl},
    stdio::Tokens,
    supervisor::{ProcessKey, Rootfs},
};

fn invalid(message: String) -> ttrpc::Error {
    to_ttrpc(ErrorKind::Invalid, message)
}

/// Reads an id.
pub fn id<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> ttrpc::Result<T> {
    text.parse().map_err(|error: T::Err| invalid(error.to_string()))
}

/// Reads the name of a process: an empty exec id is the container's first one.
pub fn key(container: &str, exec: &str) -> ttrpc::Result<ProcessKey> {
    let container: ContainerId = id(container)?;
    let exec = if exec.is_empty() { None } else { Some(id(exec)?) };
    Ok(ProcessKey { container, exec })
}

/// Reads a signal's number: signal(7) has 1 to 64.
pub fn signal(number: u32) -> ttrpc::Result<i32> {
    i32::try_from(number)
        .ok()
        .filter(|number| (1..=64).contains(number))
        .ok_or_else(|| invalid(format!("signal {number}: there is no such signal")))
}

/// Reads the token of a stream that must be there.
pub fn token(number: u64) -> ttrpc::Result<StreamToken> {
    StreamToken::new(number).ok_or_else(|| invalid("stream: is missing".to_owned()))
}

/// Reads a level of the log: syslog(2) has 0 to 7.
pub fn level(number: u32) -> ttrpc::Result<u8> {
    u8::try_from(number)
        .ok()
        .filter(|level| *level <= 7)
        .ok_or_else(|| invalid(format!("level {number}: there is no such level")))
}

/// Reads a file of the host.
pub fn host_file(file: agent::File) -> HostFile {
    HostFile { name: file.name, content: file.content, mode: file.mode }
}

/// Reads settings of the guest's kernel.
///
/// # Errors
/// [`GuestError`] for the first that is none.
pub fn sysctls(sysctls: &[agent::Sysctl]) -> Result<Vec<Sysctl>, GuestError> {
    sysctls.iter().map(|sysctl| Sysctl::new(&sysctl.name, &sysctl.value)).collect()
}

/// Reads what resolv.conf is to say.
pub fn dns(request: agent::SetDnsRequest) -> Dns {
    let agent::SetDnsRequest { servers, search, options, .. } = request;
    Dns { servers, search, options }
}

/// Reads the lines of a hosts file.
pub fn hosts(request: agent::SetHostsRequest) -> Vec<HostsEntry> {
    let entry =
        |entry: agent::HostsEntry| HostsEntry { address: entry.address, names: entry.names };
    request.entries.into_iter().map(entry).collect()
}

/// Reads the tokens of streams, and whether they are a terminal's.
pub fn streams(streams: &agent::Streams) -> (Tokens, bool) {
    let tokens = Tokens {
        stdin: StreamToken::new(streams.stdin),
        stdout: StreamToken::new(streams.stdout),
        stderr: StreamToken::new(streams.stderr),
    };
    (tokens, streams.terminal)
}

/// Reads where a container's root comes from, if it says so.
pub fn rootfs(request: &agent::CreateRequest) -> ttrpc::Result<Option<Rootfs<'_>>> {
    let Some(rootfs) = request.rootfs.as_ref() else { return Ok(None) };
    let upper = match &rootfs.upper {
        Some(Upper::DiskSerial(serial)) => Ok(serial.as_str()),
        Some(Upper::TmpfsBytes(bytes)) => Err(*bytes),
        Some(_) | None => return Err(invalid("rootfs.upper: is missing".to_owned())),
    };
    Ok(Some(Rootfs { image_serial: &rootfs.image_serial, upper }))
}

/// Reads the size of a window.
pub fn window(rows: u32, columns: u32) -> ttrpc::Result<crate::sys::terminal::WindowSize> {
    match (u16::try_from(rows), u16::try_from(columns)) {
        (Ok(rows), Ok(columns)) => Ok(crate::sys::terminal::WindowSize { rows, columns }),
        _ => Err(invalid(format!("window {rows}x{columns}: is out of range"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_no_sense_is_refused() {
        assert!(key("a/b", "").is_err());
        assert!(key("a", "../b").is_err());
        assert_eq!(key("a", "").unwrap().exec, None);
        for number in [0, 65, u32::MAX] {
            assert!(signal(number).is_err());
        }
        assert!(window(70_000, 1).is_err());
        let no_upper = agent::CreateRequest {
            rootfs: Some(agent::Rootfs::default()).into(),
            ..Default::default()
        };
        assert!(rootfs(&no_upper).is_err());
    }
}
