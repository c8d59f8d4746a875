//! The second stage: a fresh, single-threaded exec of the agent that sets one process up and
//! becomes it. It knows nothing of the supervisor; all it gets is an [`Order`](link::Order) on an
//! inherited socket, and all it says is a [`Report`](link::Report).
//!
//! ```text
//! agent --Order--> stage --Ready--> agent --Go--> stage --exec--> the user's process
//!                    \--Failed--> (end)              \--Failed--> (end)
//! ```
//!
//! An exec into a running container does not wait for `Go`, unless it has a user namespace. A
//! container with hooks pauses once more, and says `Prepared`: see [`hooks`].

mod command;
mod copy_up;
mod devices;
mod enter;
mod error;
mod hidden;
pub mod hooks;
mod identity;
mod init;
mod join;
mod labels;
pub mod link;
pub mod plan;
mod privileges;
mod process;
mod rootfs;
pub mod scheduling;
mod terminal;

use std::{ffi::CStr, os::fd::OwnedFd, process::ExitCode};

pub use error::StageError;
use init::Inherited;
use link::{Link, Order};
use plan::{InitPlan, Kind};

use crate::sys;

/// What the second stage is called in the process list, and how `main` knows it.
pub const STAGE_NAME: &CStr = c"husk-container";
/// The descriptor that comes after the link: a pidfd of its first process for an exec; for a new
/// container the root's mount, unless its mount namespace is joined, and then one for each of
/// [`plan::InitPlan::entered`].
pub const HANDLE: i32 = 4;
/// Where the root's mount is attached in the container's mount namespace, for a moment. Made at
/// boot.
pub const ROOT_MOUNT_POINT: &str = "/run/husk/root";
/// The guest's cgroup tree.
pub const CGROUP_ROOT: &str = "/sys/fs/cgroup";

/// Runs the second stage. Returns only when it fails.
#[must_use]
pub fn run() -> ExitCode {
    // Processes of a container that is entered could look into the stage, which is root until it
    // drops its privileges. The exec of the user's program undoes it.
    if nix::sys::prctl::set_dumpable(false).is_err() {
        return ExitCode::FAILURE;
    }
    // Without its link the stage can tell nobody.
    let Ok(link) = Link::inherited() else { return ExitCode::FAILURE };
    let error = match stage(&link) {
        Ok(never) => match never {},
        Err(error) => error,
    };
    // The agent sees the end of the link even when this fails.
    let _ = link.fail(&error);
    ExitCode::FAILURE
}

fn stage(link: &Link) -> Result<std::convert::Infallible, StageError> {
    match link.order()? {
        Order::Init { plan, cgroup } => init::run(link, &plan, &cgroup, inherited(&plan)?),
        Order::Join { namespaces, process } => {
            join::run(link, namespaces, &process, handle(HANDLE)?)
        }
    }
}

fn handle(number: i32) -> Result<OwnedFd, StageError> {
    sys::descriptor::inherited(number).map_err(StageError::step("take a handle"))
}

fn inherited(plan: &InitPlan) -> Result<Inherited, StageError> {
    let root = plan.is_new(Kind::Mount).then(|| handle(HANDLE)).transpose()?;
    let first = HANDLE + i32::from(root.is_some());
    let namespaces = plan.entered().into_iter().zip(first..);
    let namespaces = namespaces
        .map(|(kind, number)| Ok((kind, handle(number)?)))
        .collect::<Result<_, StageError>>()?;
    Ok(Inherited { root, namespaces })
}
