//! Sessions that look at files of a running container or copy them. The tar stream goes straight
//! between the client and the guest: no byte of it passes through here.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use husk_protocols::port::STREAM_PORT;
use husk_protocols::stream::StreamToken;

use super::change::{answer, running};
use super::control::{Connection, View, fail};
use super::error::SandboxError;
use super::sandbox::Sandbox;
use crate::engine::control::{Event, Request};
use crate::guest::open_stream;

/// What a path leads to.
pub async fn status(connection: &Connection, view: &View, path: &str) {
    let Some(sandbox) = running(connection, view).await else { return };
    let status = sandbox.agent.file_status(&sandbox.config.id, path).await;
    let status = status.map_err(SandboxError::agent("look at a file of the container"));
    answer(connection, view, status.map(Event::File)).await;
}

fn open(sandbox: &Sandbox) -> Result<(StreamToken, UnixStream), SandboxError> {
    let open = || -> std::io::Result<_> {
        let socket = sandbox.vsock.connect(STREAM_PORT)?;
        Ok((open_stream(&socket)?, socket))
    };
    open().map_err(SandboxError::io("open the stream of the copy"))
}

/// Hands the client a stream, and tells when the guest is done with it.
pub async fn copy(connection: &Connection, view: &View, request: &Request) {
    let Some(sandbox) = running(connection, view).await else { return };
    let (token, stream) = match open(&sandbox) {
        Ok(opened) => opened,
        Err(error) => return fail(connection, &error).await,
    };
    let id = &sandbox.config.id;
    let inward = matches!(request, Request::CopyIn { .. });
    let event = Event::Streams { stdin: inward, stdout: !inward, stderr: false };
    connection.send(&event, &[OwnedFd::from(stream)]).await;
    let copying = async {
        match request {
            Request::CopyOut { path } => sandbox.agent.copy_out(id, path, token).await,
            Request::CopyIn { path, keep_owner } => {
                sandbox.agent.copy_in(id, path, token, *keep_owner).await
            }
            _ => Ok(()),
        }
    };
    let copied = tokio::select! {
        copied = copying => copied.map_err(SandboxError::agent("copy")),
        _ = view.ended() => Err(SandboxError::Ended),
    };
    answer(connection, view, copied.map(|()| Event::Done)).await;
}
