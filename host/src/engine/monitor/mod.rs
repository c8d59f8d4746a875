//! The process behind one running container: parent of its VM, owner of the connection to the
//! agent, writer of its status and its log. It runs for as long as the container does.
//!
//! ```text
//! lock --> boot --> create --> run --> tear down --> gone
//!            |         |        |          ^
//!            +---------+--------+----------+      an error, a stop, a VM that died
//! ```
//!
//! Its first control connection is its own standard input: the client that started it. Whoever
//! comes later uses the socket in the runtime folder.

mod boot;
mod change;
mod control;
mod error;
mod files;
mod life;
mod sandbox;
mod setup;
mod stdio;

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use husk_protocols::id::ContainerId;

use super::dirs::Dirs;
use super::error::{Error, chain};
use super::settings::Settings;
use crate::sys::tty;

/// What `husk` is called with to become a monitor. Not for people.
pub const COMMAND: &str = "monitor";

/// Runs the monitor of a container to its end. Blocks; call it from `main`, before any thread
/// exists: the VM is tied to the life of the thread that starts it.
#[must_use]
pub fn main(id: &ContainerId) -> ExitCode {
    match run(id) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(container = %id, "{}", chain(&error));
            ExitCode::from(error.exit_code())
        }
    }
}

fn run(id: &ContainerId) -> Result<(), Error> {
    // Already a leader (started by hand, say) is as good.
    let _ = nix::unistd::setsid();
    let client = take_stdin()?;
    let dirs = Dirs::find(&Settings::load()?)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::file("start the runtime of", "monitor"))?;
    runtime.block_on(life::live(id, &dirs, client))
}

/// The client's connection arrives as standard input; nobody else may inherit it.
fn take_stdin() -> Result<UnixStream, Error> {
    let stdin = std::io::stdin();
    let take = || {
        let socket = stdin.as_fd().try_clone_to_owned()?;
        nix::unistd::dup2_stdin(tty::null()?)?;
        Ok(UnixStream::from(socket))
    };
    take().map_err(Error::file("take over", "standard input"))
}
