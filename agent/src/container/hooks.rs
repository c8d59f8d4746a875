//! Hooks as programs: config.md, "POSIX-platform Hooks". Those of the container's namespaces are
//! run from here, by the second stage; those of the guest's by the supervisor, with the same parts.
//!
//! ```text
//! Create: namespaces, mounts, devices --> prestart, createRuntime (guest) --> createContainer
//!         (container's namespaces, guest's root) --> hidden paths, the move into the root
//! Start:  startContainer (container's namespaces, root and user) --> user's program
//!         --> poststart (guest)
//! Delete: all of the container goes --> poststop (guest)
//! ```

use std::{
    ffi::CString,
    fs::File,
    io::{self, Read, Seek, Write},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    time::{Duration, Instant},
};

use husk_protocols::error::ErrorKind;
use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl},
    sys::{
        memfd::{MFdFlags, memfd_create},
        signal::{Signal, killpg},
    },
    unistd::{AccessFlags, access, pipe2},
};

use super::{
    StageError,
    link::{LINK, Link},
    plan::{HookPlan, StageHooks, Status},
};
use crate::sys::{
    self,
    clone::Child,
    hook::{self, Hook},
};

/// How much of what a hook says is told when it fails: its last words.
const MAX_OUTPUT: usize = 512;

/// How often a pipe is read until all is out of it that was in it: pipe(7), "Pipe capacity".
pub const PIPE_READS: usize = 16;

/// Why a hook failed.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    /// It could not be started.
    #[error("{hook}: {step}")]
    Start {
        /// Which hook.
        hook: String,
        /// In which step.
        step: &'static str,
        /// The result of the call.
        #[source]
        source: Errno,
    },
    /// It says so, or was killed by somebody else.
    #[error("{hook}: {end}{said}")]
    Failed {
        /// Which hook.
        hook: String,
        /// How it ended.
        end: String,
        /// Its last words.
        said: String,
    },
    /// It was killed.
    #[error("{hook}: still runs after {} s and is killed{said}", limit.as_secs())]
    TimedOut {
        /// Which hook.
        hook: String,
        /// `timeout` of the spec.
        limit: Duration,
        /// Its last words.
        said: String,
    },
}

impl HookError {
    /// What the host is told.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Start { source, .. } => match source {
                Errno::ENOENT | Errno::ENOTDIR | Errno::EACCES => ErrorKind::Invalid,
                errno => crate::failure::errno_kind(*errno),
            },
            Self::Failed { .. } | Self::TimedOut { .. } => ErrorKind::Internal,
        }
    }

    fn start(hook: &HookPlan, step: &'static str) -> impl FnOnce(Errno) -> Self {
        let hook = hook.name.clone();
        move |source| Self::Start { hook, step, source }
    }
}

/// A hook that is ready to be started.
#[derive(Debug)]
pub struct Program {
    path: CString,
    args: Vec<CString>,
    env: Vec<CString>,
    /// A file that holds the state: it can be read late, twice, or never, and nobody waits for it.
    stdin: OwnedFd,
}

impl Program {
    /// Looks the program up and writes the state down.
    ///
    /// # Errors
    /// [`HookError::Start`].
    pub fn prepare(plan: &HookPlan, state: &[u8]) -> Result<Self, HookError> {
        access(&plan.path, AccessFlags::X_OK)
            .map_err(HookError::start(plan, "find its program"))?;
        let text = |bytes: &[u8]| {
            CString::new(bytes).map_err(|_| HookError::start(plan, "read it")(Errno::EINVAL))
        };
        let texts = |list: &[String]| {
            list.iter().map(|item| text(item.as_bytes())).collect::<Result<Vec<_>, _>>()
        };
        Ok(Self {
            path: text(plan.path.as_os_str().as_bytes())?,
            args: texts(&plan.args)?,
            env: texts(&plan.env)?,
            stdin: file_of(state).map_err(HookError::start(plan, "write the state"))?,
        })
    }

    /// Starts it. What it says goes to `output`.
    ///
    /// # Errors
    /// As clone3(2).
    pub fn start(
        &self,
        output: BorrowedFd<'_>,
        cgroup: Option<BorrowedFd<'_>>,
    ) -> sys::Result<Child> {
        hook::start(&Hook {
            program: &self.path,
            args: &self.args,
            env: &self.env,
            stdin: self.stdin.as_fd(),
            output,
            cgroup,
        })
    }
}

fn file_of(content: &[u8]) -> sys::Result<OwnedFd> {
    let mut file = File::from(memfd_create(c"state", MFdFlags::MFD_CLOEXEC)?);
    let write = file.write_all(content).and_then(|()| file.rewind());
    write.map_err(|error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw))?;
    Ok(file.into())
}

/// The last words of a hook.
#[derive(Debug, Default)]
pub struct Said(Vec<u8>);

impl Said {
    /// Takes more of them, and forgets the first ones beyond the limit.
    pub fn hear(&mut self, words: &[u8]) {
        self.0.extend_from_slice(words);
        let excess = self.0.len().saturating_sub(MAX_OUTPUT);
        self.0.drain(..excess);
    }

    /// On one line, after a colon; nothing when nothing was said.
    fn told(&self) -> String {
        let text = String::from_utf8_lossy(&self.0);
        match text.trim() {
            "" => String::new(),
            text => format!(": {}", text.escape_debug()),
        }
    }
}

/// How a hook's process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// With this status, or 128 and a signal's number.
    Exited(u32),
    /// Killed, for it ran too long.
    TimedOut(Duration),
}

/// What an end means.
///
/// # Errors
/// [`HookError`] for all but success.
pub fn judge(hook: &HookPlan, end: End, said: &Said) -> Result<(), HookError> {
    let (hook, said) = (hook.name.clone(), said.told());
    match end {
        End::Exited(0) => Ok(()),
        End::Exited(code) => {
            let end = match code.checked_sub(128) {
                Some(signal @ 1..=64) => format!("killed by signal {signal}"),
                _ => format!("exit status {code}"),
            };
            Err(HookError::Failed { hook, end, said })
        }
        End::TimedOut(limit) => Err(HookError::TimedOut { hook, limit, said }),
    }
}

/// The pause before the container's root is entered: the agent runs its hooks, and then the stage
/// those of the container's namespaces.
///
/// # Errors
/// [`StageError`].
pub fn before_root(link: &Link, hooks: &StageHooks) -> Result<(), StageError> {
    sys::descriptor::close_on_exec_from(LINK.cast_unsigned())
        .map_err(StageError::step("close descriptors"))?;
    link.prepared()?;
    link.wait_for_go()?;
    let state = hooks.state.json(Status::Creating, Some(std::process::id()));
    hooks.create_container.iter().try_for_each(|hook| run(hook, &state))
}

/// The last thing before the user's program.
///
/// # Errors
/// [`StageError`].
pub fn before_program(hooks: &StageHooks) -> Result<(), StageError> {
    let state = hooks.state.json(Status::Created, Some(std::process::id()));
    hooks.start_container.iter().try_for_each(|hook| run(hook, &state))
}

/// Runs one as the calling process is: in its namespaces, root and user. Blocks.
fn run(plan: &HookPlan, state: &[u8]) -> Result<(), StageError> {
    let program = Program::prepare(plan, state)?;
    let (output, theirs) = listening_pipe().map_err(HookError::start(plan, "make a pipe"))?;
    let child =
        program.start(theirs.as_fd(), None).map_err(HookError::start(plan, "start a process"))?;
    drop(theirs);
    let mut said = Said::default();
    let in_time = attend(&child, output, plan.timeout, &mut said)
        .map_err(HookError::start(plan, "wait for it"))?;
    if !in_time {
        // Its whole session, and itself in case that it leads none yet. What has left that is in
        // the container's cgroup, and ends with it.
        let _ = killpg(child.pid, Signal::SIGKILL);
        let _ = sys::process::send_signal(child.pidfd.as_fd(), libc::SIGKILL);
    }
    let code = sys::process::wait_for(child.pid).map_err(HookError::start(plan, "wait for it"))?;
    let end = match plan.timeout {
        Some(limit) if !in_time => End::TimedOut(limit),
        _ => End::Exited(code),
    };
    Ok(judge(plan, end, &said)?)
}

/// A pipe whose reader never waits. Its writer does: a hook knows no other kind.
fn listening_pipe() -> sys::Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) = pipe2(OFlag::O_CLOEXEC)?;
    fcntl(&ours, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok((ours, theirs))
}

/// Listens until the process ends; `false` when its time was up before.
fn attend(
    child: &Child,
    output: OwnedFd,
    limit: Option<Duration>,
    said: &mut Said,
) -> sys::Result<bool> {
    let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
    let mut output = Some(File::from(output));
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        // One more, so that the last wait does not end a moment too early.
        let left_ms = left.map_or(-1, |left| {
            libc::c_int::try_from(left.as_millis().saturating_add(1)).unwrap_or(libc::c_int::MAX)
        });
        let ready = hook::wait(child.pidfd.as_fd(), output.as_ref().map(AsFd::as_fd), left_ms)?;
        if ready.output && output.as_mut().is_some_and(|output| !listen(output, said)) {
            output = None;
        }
        if ready.ended {
            // At most a pipe's content: what it has left behind may go on for ever.
            let mut left = 0..PIPE_READS;
            while left.next().is_some() && output.as_mut().is_some_and(|out| listen(out, said)) {}
            return Ok(true);
        }
        if left.is_some_and(|left| left.is_zero()) {
            return Ok(false);
        }
    }
}

/// Takes what is there; `false` at the end of it.
fn listen(output: &mut File, said: &mut Said) -> bool {
    let mut buffer = [0; 4096];
    match output.read(&mut buffer) {
        Ok(0) => false,
        Ok(len) => {
            said.hear(buffer.get(..len).unwrap_or_default());
            true
        }
        Err(error) => error.kind() == io::ErrorKind::WouldBlock,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(script: &str, timeout_s: Option<u64>) -> HookPlan {
        HookPlan {
            name: "hooks.test[0]".to_owned(),
            path: "/bin/sh".into(),
            args: ["sh", "-c", script].map(str::to_owned).into(),
            env: vec!["WORD=kept".to_owned()],
            timeout: timeout_s.map(Duration::from_secs),
        }
    }

    fn message(result: Result<(), StageError>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn hook_gets_the_state_and_its_environment_and_no_more() {
        let script = "test \"$(cat)\" = state && test \"$WORD\" = kept && test -z \"$CARGO\"";
        run(&plan(script, None), b"state").unwrap();
        // Larger than a pipe, and not read.
        run(&plan("true", None), &vec![b'x'; 1 << 20]).unwrap();
    }

    #[test]
    fn failure_tells_the_status_and_the_last_words() {
        let told = message(run(&plan("echo first; echo last >&2; exit 3", None), b""));
        assert_eq!(told, "hooks.test[0]: exit status 3: first\\nlast");
        let told = message(run(&plan("kill -9 $$", None), b""));
        assert_eq!(told, "hooks.test[0]: killed by signal 9");
    }

    #[test]
    fn hook_that_says_much_does_not_block_and_is_cut() {
        let script =
            "i=0; while [ $i -lt 20000 ]; do echo word word word $i; i=$((i+1)); done; exit 1";
        let told = message(run(&plan(script, None), b""));
        assert!(told.len() < 2 * MAX_OUTPUT && told.ends_with("19999"), "{told}");
    }

    /// Not gone, and no zombie that nobody has taken yet.
    fn lives(status: &str) -> bool {
        std::fs::read_to_string(status).is_ok_and(|status| !status.contains(") Z "))
    }

    #[test]
    fn hook_that_runs_too_long_is_killed_with_its_session() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pid");
        let script = format!("sleep 1000 & echo $! > {}; wait", file.display());
        // Enough to come as far as its file.
        let told = message(run(&plan(&script, Some(5)), b""));
        assert!(told.contains("still runs after 5 s"), "{told}");
        let pid = std::fs::read_to_string(file).unwrap();
        let status = format!("/proc/{}/stat", pid.trim());
        // A signal's effect may come after the call that sent it.
        let until = Instant::now() + Duration::from_secs(30);
        while Instant::now() < until && lives(&status) {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(!lives(&status), "{status} is there");
    }

    #[test]
    fn program_that_cannot_be_executed_says_why() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("script");
        std::fs::write(&script, "#!/no/such/interpreter\n").unwrap();
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
        for (path, words) in [(script, "interpreter is missing"), ("/tmp".into(), "a folder")] {
            let told = message(run(&HookPlan { path, ..plan("", None) }, b""));
            assert!(told.contains("exit status 127") && told.contains(words), "{told}");
        }
    }

    #[test]
    fn missing_program_is_named() {
        let missing = HookPlan { path: "/no/such".into(), ..plan("", None) };
        let error = run(&missing, b"").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains("hooks.test[0]: find its program"), "{error}");
    }
}
