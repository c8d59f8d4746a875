//! The ttrpc services: each handler decodes, asks the supervisor, and encodes. Generated types stop
//! here.

mod connection;
mod containers;
mod decode;
mod processes;
mod sandbox;
mod stats;
mod stdio;
pub mod wire;

use std::{io, sync::Arc};

use futures::stream::{self, StreamExt};
use husk_protocols::{agent_ttrpc, error::to_ttrpc};
use tokio::sync::Notify;
use tokio_vsock::VsockStream;
use ttrpc::r#async::{Server, transport::Listener};

use connection::Connection;

use crate::{
    failure,
    supervisor::{Supervisor, SupervisorError},
};

/// Why serving ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The host has closed the connection, or is gone.
    HostGone,
    /// The host asked for it, and has its answer.
    Shutdown,
}

/// Serves the host on the connection that announced the guest, until one of both ends it.
///
/// # Errors
/// When the server cannot be started.
pub async fn serve(stream: VsockStream, supervisor: Supervisor) -> Result<Ending, ttrpc::Error> {
    let gone = Arc::new(Notify::new());
    let shutdown = Arc::new(Notify::new());
    let connection = Connection::new(stream, gone.clone());
    // One connection, ever: the listener yields it and then nothing.
    let only = stream::iter([io::Result::Ok(connection)]).chain(stream::pending());
    let sandbox = sandbox::Service { supervisor: supervisor.clone(), shutdown: shutdown.clone() };
    let containers = containers::Service { supervisor: supervisor.clone() };
    let processes = processes::Service { supervisor: supervisor.clone() };
    let stdio = stdio::Service { supervisor };
    let mut server = Server::new()
        .add_listener(Listener::new(only))
        .register_service(agent_ttrpc::create_sandbox(Arc::new(sandbox)))
        .register_service(agent_ttrpc::create_containers(Arc::new(containers)))
        .register_service(agent_ttrpc::create_processes(Arc::new(processes)))
        .register_service(agent_ttrpc::create_stdio(Arc::new(stdio)));
    server.start().await?;
    let mut ending = Ending::HostGone;
    tokio::select! {
        () = gone.notified() => {}
        () = shutdown.notified() => {
            ending = Ending::Shutdown;
            // The answer is on its way: the host closes once it has it.
            let _ = tokio::time::timeout(sandbox::ANSWER_GRACE, gone.notified()).await;
        }
    }
    Ok(ending)
}

/// The one place where an error leaves for the host.
fn refuse(error: &SupervisorError) -> ttrpc::Error {
    to_ttrpc(error.kind(), failure::line(error))
}

/// What a handler answers.
fn encode<T>(result: Result<T, SupervisorError>) -> ttrpc::Result<T> {
    result.map_err(|error| refuse(&error))
}
