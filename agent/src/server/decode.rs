//! Messages into the supervisor's own types.

use husk_protocols::{
    agent::{self, rootfs::Upper},
    error::{ErrorKind, to_ttrpc},
    id::ContainerId,
    stream::StreamToken,
};

use crate::{
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
