//! The last steps of every process, a container's first one or an exec's: terminal, limits, user,
//! privileges, folder, command, and the exec itself.

use std::{
    convert::Infallible,
    ffi::CString,
    fs,
    os::fd::{AsFd, IntoRawFd},
    path::Path,
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, open},
    sys::{
        personality::{self, Persona},
        stat::{Mode, fstat, umask},
    },
    unistd::{Uid, chdir, fchown, getcwd, setsid},
};

use super::{
    StageError, command, hooks,
    identity::{self, Identity},
    link::{LINK, Link},
    plan::{ProcessPlan, StageHooks},
    privileges::{self, Privileges},
    scheduling,
    terminal::Terminal,
};
use crate::{
    seccomp::Filter,
    sys::{self, scheduling::CALLER, seccomp::Listens},
};

/// What a process has that asks for no umask of its own.
const DEFAULT_UMASK: u32 = 0o022;

/// Whether the process waits for the agent's word before its exec.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate<'a> {
    /// A container's first process. Its hooks run after the word, as the user that the process is.
    Wait(Option<&'a StageHooks>),
    /// An exec.
    Open,
}

/// `process.oomScoreAdj`, written through the guest's /proc.
///
/// # Errors
/// [`StageError::Path`].
pub fn set_oom_score(plan: &ProcessPlan) -> Result<(), StageError> {
    const FILE: &str = "/proc/self/oom_score_adj";
    let Some(value) = plan.oom_score_adj else { return Ok(()) };
    fs::write(FILE, value.to_string()).map_err(|error| {
        let errno = error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
        StageError::path("write", FILE)(errno)
    })
}

/// Becomes the user's process. The caller is in the container already, as root.
///
/// # Errors
/// [`StageError`]; on success there is no return.
pub fn become_process(
    link: &Link,
    plan: &ProcessPlan,
    terminal: Option<Terminal>,
    gate: Gate<'_>,
) -> Result<Infallible, StageError> {
    new_keyring()?;
    let master = match terminal {
        Some(terminal) => Some(terminal.take(plan.terminal.flatten())?),
        None => {
            setsid().map_err(StageError::step("start a session"))?;
            None
        }
    };
    for limit in &plan.limits {
        sys::process::set_limit(limit.resource, limit.soft, limit.hard)
            .map_err(StageError::step("set a resource limit"))?;
    }
    let identity = identity::find(&plan.user)?;
    give_stdio(&identity)?;
    enter_cwd(&plan.cwd)?;
    umask(Mode::from_bits_truncate(plan.user.umask.unwrap_or(DEFAULT_UMASK)));
    scheduling::set(CALLER, &plan.scheduling)?;
    if let Some(persona) = plan.personality {
        personality::set(Persona::from_bits_retain(persona.cast_signed()))
            .map_err(StageError::step("set the personality"))?;
    }
    privileges::drop_to(
        &identity,
        &Privileges {
            sets: plan.capabilities.unwrap_or_default(),
            no_new: plan.no_new_privileges.unwrap_or_default(),
            filters: plan.filter.is_some(),
        },
    )?;
    let program = Program::find(plan, &identity)?;
    let filter = plan.filter.as_ref().map(prepare);
    sys::process::restore_sigpipe().map_err(StageError::step("restore SIGPIPE"))?;
    sys::descriptor::close_on_exec_from(LINK.cast_unsigned())
        .map_err(StageError::step("close descriptors"))?;
    link.ready(master.as_ref().map(AsFd::as_fd))?;
    drop(master);
    if let Gate::Wait(hooks) = gate {
        link.wait_for_go()?;
        hooks.map_or(Ok(()), hooks::before_program)?;
    }
    if let Some(filter) = &filter {
        load(filter, link)?;
    }
    program.exec()
}

fn prepare(filter: &Filter) -> sys::seccomp::Filter {
    let listens = if filter.listens { Listens::Yes } else { Listens::No };
    sys::seccomp::Filter::new(filter.program.bytes(), filter.flags, listens)
}

/// Nothing but the exec comes after it, so that a filter need allow nothing else: no memory is
/// taken or given back. With a listener there is the word about it too, a write, and a read until
/// the listener has it.
fn load(filter: &sys::seccomp::Filter, link: &Link) -> Result<(), StageError> {
    let listener = filter.load().map_err(StageError::step("load the seccomp filter"))?;
    if let Some(listener) = listener {
        link.hand_over(listener.as_fd())?;
        // The exec closes it.
        let _ = listener.into_raw_fd();
    }
    Ok(())
}

fn new_keyring() -> Result<(), StageError> {
    match sys::process::new_session_keyring() {
        // A kernel without keys has none to share.
        Ok(()) | Err(Errno::ENOSYS) => Ok(()),
        Err(errno) => Err(StageError::step("make a session keyring")(errno)),
    }
}

/// Lets a user who is not root open /dev/stdout and its like again.
fn give_stdio(identity: &Identity) -> Result<(), StageError> {
    if identity.uid == 0 {
        return Ok(());
    }
    let null = open("/dev/null", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
        .and_then(fstat)
        .map(|null| null.st_rdev)
        .unwrap_or_default();
    let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    for stream in [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()] {
        let file = fstat(stream).map_err(StageError::step("stat a standard stream"))?;
        // /dev/null is everybody's.
        if file.st_rdev != null || null == 0 {
            match fchown(stream, Some(Uid::from_raw(identity.uid)), None) {
                // The agent's own, in a user namespace: it gives them away itself.
                Ok(()) | Err(Errno::EPERM) => {}
                Err(errno) => {
                    return Err(StageError::step("give a standard stream to the user")(errno));
                }
            }
        }
    }
    Ok(())
}

fn enter_cwd(path: &Path) -> Result<(), StageError> {
    let failed = |source| StageError::WorkingDirectory { path: path.to_owned(), source };
    chdir(path).map_err(failed)?;
    // A path through a descriptor in /proc could lead out of the root: the kernel then has no name
    // for the folder that begins with a slash.
    match getcwd() {
        Ok(cwd) if cwd.is_absolute() => Ok(()),
        _ => Err(failed(Errno::ENOENT)),
    }
}

/// What is executed.
struct Program {
    name: String,
    exec: sys::process::Exec,
}

impl Program {
    fn find(plan: &ProcessPlan, identity: &Identity) -> Result<Self, StageError> {
        let name = plan.args.first().cloned().unwrap_or_default();
        let variable = |wanted: &str| {
            // The last one counts, as in docker.
            let mut all = plan.env.iter().rev().filter_map(|variable| variable.split_once('='));
            all.find(|(name, _)| *name == wanted).map(|(_, value)| value)
        };
        let path = command::find(&name, variable("PATH"))?;
        let text = |text: &str| {
            CString::new(text).map_err(|_| StageError::step("read the arguments")(Errno::EINVAL))
        };
        let mut env = plan.env.iter().map(|v| text(v)).collect::<Result<Vec<_>, _>>()?;
        if variable("HOME").is_none_or(str::is_empty) {
            env.retain(|variable| !variable.as_bytes().starts_with(b"HOME="));
            env.push(text(&format!("HOME={}", identity.home))?);
        }
        let path = text(&path.to_string_lossy())?;
        let args = plan.args.iter().map(|arg| text(arg)).collect::<Result<_, _>>()?;
        Ok(Self { name, exec: sys::process::Exec::new(path, args, env) })
    }

    fn exec(self) -> Result<Infallible, StageError> {
        let errno = self.exec.run();
        Err(command::CommandError::Exec { name: self.name, errno }.into())
    }
}
