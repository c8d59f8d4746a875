//! From the kernel's start of PID 1 to an agent that serves, and from there to the end of the
//! machine.

mod announce;
mod mounts;
mod options;
mod power;

use std::{io, time::Duration};

use tokio_vsock::{VsockListener, VsockStream};

use crate::{
    cgroup::{self, CgroupError},
    failure, log, network,
    server::{self, Console, Ending},
    stdio::Streams,
    supervisor::{Reaper, Supervisor, SupervisorError},
};
use announce::{AnnounceError, Announced};
use options::{OptionError, Options};

/// Threads for what blocks. They end when they have had nothing to do for a while. Enough that many
/// containers whose devices do not appear leave some for the others.
const MAX_BLOCKING_THREADS: usize = 256;
const THREAD_KEEP_ALIVE: Duration = Duration::from_secs(2);
const THREAD_STACK: usize = 256 << 10;
/// How long containers may take to go when the host is gone: it will not miss them.
const FAREWELL: Duration = Duration::from_secs(5);

/// Why the guest does not come up.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// Mounts and folders.
    #[error("mount {what}")]
    Mount {
        /// Which.
        what: &'static str,
        /// The result of the call.
        #[source]
        source: nix::errno::Errno,
    },
    /// Loopback.
    #[error("raise loopback")]
    Loopback(#[source] nix::errno::Errno),
    /// The kernel's command line.
    #[error("read the kernel's command line")]
    CommandLine(#[source] io::Error),
    /// A wish on it.
    #[error("the kernel's command line")]
    Option(#[source] OptionError),
    /// Control groups.
    #[error("set up control groups")]
    Cgroup(#[source] CgroupError),
    /// The host cannot be reached.
    #[error("announce the guest")]
    Announce(#[source] AnnounceError),
    /// The runtime.
    #[error("start the runtime")]
    Runtime(#[source] io::Error),
    /// The supervisor.
    #[error("start the supervisor")]
    Supervisor(#[source] SupervisorError),
    /// The server.
    #[error("serve the host")]
    Serve(#[source] ttrpc::Error),
}

/// Is PID 1: boots, serves, and powers off, whatever happens.
pub fn run() -> ! {
    // The runtime of the language knows nothing of the kernel's log, and the first process has no
    // other place to complain.
    std::panic::set_hook(Box::new(|panic| log::error("panic", &panic.to_string())));
    match boot() {
        Ok(Ending::Shutdown) => log::info("boot", "shut down"),
        Ok(Ending::HostGone) => log::info("boot", "the host has closed the connection"),
        Err(error) => log::error("boot", &failure::line(&error)),
    }
    power::off()
}

fn boot() -> Result<Ending, BootError> {
    // What is said here waits in the connection while the rest of the boot goes on.
    let announced = announce::announce().map_err(BootError::Announce)?;
    mounts::move_root()?;
    mounts::mount_pseudo_filesystems()?;
    mounts::hasten_grace_periods();
    mounts::mount_cgroups()?;
    mounts::make_folders()?;
    let options = Options::read()?;
    options.apply()?;
    cgroup::set_up_root().map_err(BootError::Cgroup)?;
    network::raise_loopback().map_err(BootError::Loopback)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(MAX_BLOCKING_THREADS)
        .thread_keep_alive(THREAD_KEEP_ALIVE)
        .thread_stack_size(THREAD_STACK)
        .build()
        .map_err(BootError::Runtime)?;
    runtime.block_on(serve(announced, &options))
}

async fn serve(announced: Announced, options: &Options) -> Result<Ending, BootError> {
    let reaper = Reaper::new().map_err(BootError::Runtime)?;
    let listener = VsockListener::from(announced.listener);
    let stream = VsockStream::from(announced.connection);
    let streams = Streams::serve(listener);
    let supervisor = Supervisor::start(reaper, streams.clone()).map_err(BootError::Supervisor)?;
    let console = if options.console { Console::On } else { Console::Off };
    if console == Console::On {
        let listener = announce::listen_for_consoles().map_err(BootError::Announce)?;
        server::serve_consoles(listener.into(), supervisor.clone(), streams.clone());
    }
    log::info("boot", "the guest is up");
    let ending = server::serve(stream, supervisor.clone(), streams, console)
        .await
        .map_err(BootError::Serve)?;
    if ending == Ending::HostGone {
        // So that a disk that outlives the machine is whole.
        let _ = tokio::time::timeout(FAREWELL, supervisor.shut_down()).await;
    }
    Ok(ending)
}
