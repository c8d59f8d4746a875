//! A container's hooks that run in the guest's namespaces, and the bundle that hooks are told of.
//! The second stage runs those of the container's.
//!
//! What fails where (runtime-spec 1.2, runtime.md, "Lifecycle"):
//!
//! - `prestart`, `createRuntime`, `createContainer`: `Create` fails, all of the container goes, and
//!   the `poststop` hooks run.
//! - `startContainer`, `poststart`: `Start` fails and the container is stopped. (Before 1.2.1 the
//!   spec had a failing `poststart` hook logged only, which runc never did.) `poststop` comes with
//!   `Delete`.
//! - `poststop`: a line in the guest's log; the others run all the same, and `Delete` succeeds.
//!
//! A hook is born in a cgroup of its own, which is killed when the hook ends, runs too long, or is
//! not wanted any more: nothing that it has started is left. When the sandbox shuts down, hooks are
//! killed and no further ones begin.

use std::{
    fs,
    io::{self, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::{DirBuilderExt, OpenOptionsExt, symlink},
    },
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use husk_protocols::id::ContainerId;
use nix::{errno::Errno, fcntl::OFlag, unistd::pipe2};
use tokio::{net::unix::pipe, sync::watch};

use super::{
    Result, SupervisorError,
    assets::{blocking, remove},
    desk::Desk,
    process::Spawned,
    table::{Present, State},
};
use crate::{
    cgroup::{Cgroup, CgroupPlan},
    container::{
        ROOT_MOUNT_POINT,
        hooks::{End, HookError, PIPE_READS, Program, Said, judge},
        plan::{HookPlan, HookPlans, StageHooks, StatePlan, Status},
    },
    failure,
    sys::clone::Child,
};

/// Where bundles lie. Made at boot.
pub const BUNDLES: &str = "/run/husk/bundles";

static NEXT: AtomicU64 = AtomicU64::new(0);

/// What a spec asks of hooks.
#[derive(Debug)]
pub struct HooksOrder {
    pub plans: HookPlans,
    pub state: StatePlan,
    /// The spec as it came.
    pub config: Vec<u8>,
}

impl HooksOrder {
    /// The part of the second stage.
    #[must_use]
    pub fn for_stage(&self) -> StageHooks {
        StageHooks {
            create_container: self.plans.create_container.clone(),
            start_container: self.plans.start_container.clone(),
            state: self.state.clone(),
        }
    }
}

/// The folder that a container's state names.
#[must_use]
pub fn bundle(id: &ContainerId) -> PathBuf {
    Path::new(BUNDLES).join(id.as_str())
}

/// A folder with `config.json`, which is for root's eyes, and with `rootfs`: a link to where the
/// root is mounted in the container's mount namespace until it is entered. Gone when dropped.
#[derive(Debug)]
struct Bundle(PathBuf);

impl Bundle {
    fn make(path: PathBuf, config: &[u8]) -> io::Result<Self> {
        fs::DirBuilder::new().mode(0o711).create(&path)?;
        let bundle = Self(path);
        let config_json = bundle.0.join("config.json");
        fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(config_json)?
            .write_all(config)?;
        symlink(ROOT_MOUNT_POINT, bundle.0.join("rootfs"))?;
        Ok(bundle)
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        // Nobody could do anything about one that stays.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The hooks of one container, for as long as it is there.
#[derive(Debug)]
pub struct Hooks {
    owner: ContainerId,
    plans: HookPlans,
    state: StatePlan,
    /// Some have run, or all of their kind have: those after the container's end are due.
    begun: AtomicBool,
    /// The container is being deleted.
    deleted: watch::Sender<bool>,
    _bundle: Bundle,
}

impl Hooks {
    /// Makes the bundle.
    ///
    /// # Errors
    /// [`SupervisorError::Step`].
    pub async fn make(owner: ContainerId, order: HooksOrder) -> Result<Arc<Self>> {
        let HooksOrder { plans, state, config } = order;
        let path = bundle(&owner);
        let made = blocking(move || Bundle::make(path, &config)).await?;
        Ok(Arc::new(Self {
            owner,
            plans,
            state,
            begun: AtomicBool::new(false),
            deleted: watch::Sender::new(false),
            _bundle: made.map_err(SupervisorError::step("make a bundle"))?,
        }))
    }

    /// `prestart` and `createRuntime`.
    ///
    /// # Errors
    /// That of the first one that fails.
    pub async fn create_runtime(&self, desk: &Desk, pid: u32) -> Result<()> {
        self.begun.store(true, Ordering::Relaxed);
        self.run_all(desk, &self.plans.create_runtime, Status::Creating, pid).await
    }

    async fn run_all(
        &self,
        desk: &Desk,
        hooks: &[HookPlan],
        status: Status,
        pid: u32,
    ) -> Result<()> {
        let state = self.state.json(status, Some(pid));
        for hook in hooks {
            let job = Job { desk, owner: &self.owner, plan: hook };
            job.run(state.clone(), Some(self.deleted.subscribe())).await?;
        }
        Ok(())
    }

    /// Ends what still runs: the container is on its way out.
    pub fn cancel(&self) {
        self.deleted.send_replace(true);
    }

    /// `poststop`, when a container is gone that had come as far as its first hooks.
    pub async fn poststop(&self, desk: &Desk) {
        if !self.begun.load(Ordering::Relaxed) {
            return;
        }
        let state = self.state.json(Status::Stopped, None);
        for hook in &self.plans.poststop {
            let job = Job { desk, owner: &self.owner, plan: hook };
            if let Err(error) = job.run(state.clone(), None).await {
                warn(&failure::line(&error));
            }
        }
    }
}

/// What is to be done once the user's program has begun.
pub struct Poststart {
    hooks: Arc<Hooks>,
    pid: u32,
    cgroup: Arc<Cgroup>,
}

impl Present {
    /// Its `poststart` hooks, if there are any.
    #[must_use]
    pub fn poststart(&self) -> Option<Poststart> {
        let hooks = self.hooks.clone().filter(|hooks| !hooks.plans.poststart.is_empty())?;
        Some(Poststart { hooks, pid: self.first.number(), cgroup: self.assets.cgroup.clone() })
    }
}

impl Poststart {
    /// Runs them.
    ///
    /// # Errors
    /// That of the first one that fails; the container's processes are killed then.
    pub async fn run(self, desk: &Desk) -> Result<()> {
        let Self { hooks, pid, cgroup } = self;
        let result = hooks.run_all(desk, &hooks.plans.poststart, Status::Running, pid).await;
        if result.is_err() {
            // The hook's error is the one that is told.
            let _ = blocking(move || cgroup.kill()).await;
        }
        result
    }
}

/// A line in the guest's log.
fn warn(message: &str) {
    let message: String = message.chars().take(512).collect();
    // Nobody is left to be told when this fails.
    let _ = fs::OpenOptions::new()
        .write(true)
        .open("/dev/kmsg")
        .and_then(|mut log| log.write_all(format!("<4>husk-agent: {message}\n").as_bytes()));
}

/// A hook that the actor is to start.
#[derive(Debug)]
pub struct HookOrder {
    /// Whose hook it is.
    pub owner: ContainerId,
    program: Program,
    output: OwnedFd,
    cgroup: Arc<Cgroup>,
}

impl HookOrder {
    /// Starts it.
    ///
    /// # Errors
    /// As clone3(2).
    pub fn start(&self) -> crate::sys::Result<Child> {
        self.program.start(self.output.as_fd(), Some(self.cgroup.folder()))
    }
}

/// Why the wait for a hook is over.
enum Over {
    Ended(End),
    /// The container is deleted, or the sandbox shuts down.
    Unwanted(SupervisorError),
}

struct Job<'a> {
    desk: &'a Desk,
    owner: &'a ContainerId,
    plan: &'a HookPlan,
}

impl Job<'_> {
    async fn run(&self, state: Vec<u8>, deleted: Option<watch::Receiver<bool>>) -> Result<()> {
        if self.desk.is_closing() {
            return Err(SupervisorError::Gone);
        }
        let (order, output) = self.prepare(state).await?;
        let cgroup = order.cgroup.clone();
        let mut said = Said::default();
        let over = match self.desk.spawn_hook(order).await {
            Ok(spawned) => Ok(self.attend(spawned, output, &mut said, deleted, &cgroup).await),
            Err(error) => Err(error),
        };
        remove(cgroup).await?;
        match over? {
            Over::Ended(end) => Ok(judge(self.plan, end, &said)?),
            Over::Unwanted(error) => Err(error),
        }
    }

    fn stopped(&self) -> SupervisorError {
        SupervisorError::WrongState { id: self.owner.clone(), state: State::Stopped }
    }

    async fn prepare(&self, state: Vec<u8>) -> Result<(HookOrder, pipe::Receiver)> {
        let (plan, owner) = (self.plan.clone(), self.owner.clone());
        let (order, output) = blocking(move || -> Result<_> {
            let program = Program::prepare(&plan, &state)?;
            let pipe = pipe2(OFlag::O_CLOEXEC).map_err(|source| HookError::Start {
                hook: plan.name.clone(),
                step: "make a pipe",
                source,
            })?;
            let name = format!("hook-{}", NEXT.fetch_add(1, Ordering::Relaxed));
            let cgroup = Arc::new(Cgroup::create(&CgroupPlan::unlimited(&name))?);
            Ok((HookOrder { owner, program, output: pipe.1, cgroup }, pipe.0))
        })
        .await??;
        match pipe::Receiver::from_owned_fd(output) {
            Ok(output) => Ok((order, output)),
            Err(error) => {
                remove(order.cgroup).await?;
                Err(SupervisorError::step("poll a hook's output")(error))
            }
        }
    }

    /// Listens until the hook ends or is not waited for any longer; then kills all of it, and waits
    /// for its end.
    async fn attend(
        &self,
        spawned: Spawned,
        mut output: pipe::Receiver,
        said: &mut Said,
        deleted: Option<watch::Receiver<bool>>,
        cgroup: &Arc<Cgroup>,
    ) -> Over {
        let mut exit = spawned.exit;
        let over = tokio::select! {
            code = listen(&mut exit, &mut output, said) => return Over::Ended(End::Exited(code)),
            limit = sleep(self.plan.timeout) => Over::Ended(End::TimedOut(limit)),
            () = told(deleted) => Over::Unwanted(self.stopped()),
            () = self.desk.closed() => Over::Unwanted(SupervisorError::Gone),
        };
        let cgroup = cgroup.clone();
        // The removal of the cgroup kills too, and says why it cannot.
        let _ = blocking(move || cgroup.kill()).await;
        let _ = exit.await;
        over
    }
}

/// Takes what a hook says until it ends, and what is left of it then.
async fn listen(
    exit: &mut tokio::sync::oneshot::Receiver<u32>,
    output: &mut pipe::Receiver,
    said: &mut Said,
) -> u32 {
    use tokio::io::AsyncReadExt;
    let mut buffer = [0; 4096];
    let mut open = true;
    let code = loop {
        tokio::select! {
            biased;
            code = &mut *exit => break code.unwrap_or(u32::MAX),
            read = output.read(&mut buffer), if open => match read {
                Ok(len @ 1..) => said.hear(buffer.get(..len).unwrap_or_default()),
                Ok(0) | Err(_) => open = false,
            },
        }
    };
    // At most a pipe's content: what it has left behind may go on for ever. From the pipe itself:
    // the runtime may not have heard yet that there is something in it.
    for _ in 0..PIPE_READS {
        match nix::unistd::read(output.as_fd(), &mut buffer) {
            Ok(len @ 1..) => said.hear(buffer.get(..len).unwrap_or_default()),
            Ok(0) | Err(_) => break,
        }
    }
    code
}

async fn sleep(limit: Option<Duration>) -> Duration {
    match limit {
        Some(limit) => {
            tokio::time::sleep(limit).await;
            limit
        }
        None => std::future::pending().await,
    }
}

/// Waits until a flag is set; for ever where nobody can set it.
async fn told(flag: Option<watch::Receiver<bool>>) {
    if let Some(mut flag) = flag
        && flag.wait_for(|set| *set).await.is_ok()
    {
        return;
    }
    std::future::pending().await
}

/// Names the step in which a hook could not be started.
pub fn not_started(source: Errno) -> SupervisorError {
    SupervisorError::step("start a hook")(source)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bundle_has_the_spec_and_goes_with_its_owner() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("web");
        let bundle = Bundle::make(path.clone(), b"{}").unwrap();
        assert_eq!(fs::read(path.join("config.json")).unwrap(), b"{}");
        assert_eq!(fs::read_link(path.join("rootfs")).unwrap(), Path::new(ROOT_MOUNT_POINT));
        drop(bundle);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn last_words_are_heard_whether_the_end_or_they_are_seen_first() {
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC).unwrap();
        let mut output = pipe::Receiver::from_owned_fd(reader).unwrap();
        fs::File::from(writer).write_all(b"last words").unwrap();
        let (tell, mut exit) = tokio::sync::oneshot::channel();
        tell.send(3).unwrap();
        let mut said = Said::default();
        // The end is known, and of the words nobody has been told yet.
        assert_eq!(listen(&mut exit, &mut output, &mut said).await, 3);
        let plan = HookPlan {
            name: "hooks.test[0]".to_owned(),
            path: "/bin/sh".into(),
            args: Vec::new(),
            env: Vec::new(),
            timeout: None,
        };
        let told = judge(&plan, End::Exited(3), &said).unwrap_err().to_string();
        assert_eq!(told, "hooks.test[0]: exit status 3: last words");
    }
}
