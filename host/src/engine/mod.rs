//! The life of containers: records on disk, one monitor process for each that runs, and what
//! clients ask of them. `cli` calls [`Engine`]; `monitor` is the other process.
//!
//! ```text
//! Engine::create --record, disk--> store
//! Engine::start  --spawns--> monitor --owns--> VM --vsock--> agent
//! Engine::exec, stop, ... --control socket--> monitor
//! ```

mod change;
pub mod client;
pub mod control;
pub mod copy;
pub mod create;
pub mod dirs;
pub mod doctor;
pub mod error;
pub mod monitor;
mod names;
pub mod output_log;
pub mod record;
pub mod settings;
pub mod spec;
pub mod store;

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use self::client::{Exited, Session};
use self::control::{Attach, Exec, Request};
use self::dirs::Dirs;
use self::error::Error;
use self::record::Phase;
use self::settings::Settings;
use self::store::{Container, Store};
use crate::image::{ImageId, ImageStore, Removed};
use crate::sys::process;

/// How long a monitor may take to end after its last word.
const MONITOR_EXIT: Duration = Duration::from_secs(2);
/// How long `rm -f` waits for a monitor to take its container down before it takes the monitor
/// down.
const REMOVE_GRACE: Duration = Duration::from_secs(20);

/// One installation of husk.
#[derive(Debug)]
pub struct Engine {
    dirs: Dirs,
    settings: Settings,
    containers: Store,
    images: ImageStore,
}

impl Engine {
    /// Opens the installation that the environment and the configuration name, and clears what
    /// killed commands left.
    ///
    /// # Errors
    /// [`Error::NoHome`], [`Error::File`], the image store's.
    pub fn open() -> Result<Self, Error> {
        let settings = Settings::load()?;
        let dirs = Dirs::find(&settings)?;
        let containers = Store::open(&dirs)?;
        containers.clear_abandoned()?;
        let images = ImageStore::open(&dirs.images())?;
        Ok(Self { dirs, settings, containers, images })
    }

    /// The images.
    #[must_use]
    pub fn images(&self) -> &ImageStore {
        &self.images
    }

    /// Removes an image that no container uses.
    ///
    /// # Errors
    /// The image store's, [`Error::File`].
    pub fn remove_image(&self, reference: &str, force: bool) -> Result<Removed, Error> {
        let containers = self.containers.list()?;
        let user = |id: &ImageId| {
            let uses = |c: &&Container| c.config.image.id == id.to_string();
            containers.iter().find(uses).map(|c| c.config.name.clone())
        };
        Ok(self.images.remove(reference, &user, force)?)
    }

    /// Every container, oldest first.
    ///
    /// # Errors
    /// [`Error::File`], [`Error::Corrupt`].
    pub fn list(&self) -> Result<Vec<Container>, Error> {
        self.containers.list()
    }

    /// The container of a name, an id, or the start of an id.
    ///
    /// # Errors
    /// [`Error::NoSuchContainer`], [`Error::Ambiguous`], and those of [`Engine::list`].
    pub fn find(&self, reference: &str) -> Result<Container, Error> {
        self.containers.find(reference)
    }

    /// Boots the container's VM and starts it. The session's next event is its start.
    /// `client_started_ns` is when the client began, of `CLOCK_MONOTONIC`.
    ///
    /// # Errors
    /// [`Error::WrongPhase`] when it runs already; [`Error::File`].
    pub fn start(
        &self,
        container: &Container,
        attach: Option<Attach>,
        client_started_ns: u64,
    ) -> Result<Session, Error> {
        if container.status.is_live() {
            return Err(wrong_phase(container, ""));
        }
        let session = Session::spawn(container)?;
        session.request(&Request::Start { attach, client_started_ns })?;
        Ok(session)
    }

    fn connect(&self, container: &Container) -> Result<Session, Error> {
        Session::connect(container, &self.containers.socket(&container.config.id))
    }

    /// Joins a running container's streams. The session's next event is that it has.
    ///
    /// # Errors
    /// [`Error::WrongPhase`] and those of the connection.
    pub fn attach(&self, container: &Container, attach: Attach) -> Result<Session, Error> {
        require_live(container)?;
        let session = self.connect(container)?;
        session.request(&Request::Attach(attach))?;
        Ok(session)
    }

    /// Starts a further process in a running container. The session's next event is its start.
    ///
    /// # Errors
    /// [`Error::WrongPhase`] and those of the connection.
    pub fn exec(&self, container: &Container, exec: Exec) -> Result<Session, Error> {
        if container.status.phase != Phase::Running {
            return Err(wrong_phase(container, " (start it with husk start)"));
        }
        if container.status.paused {
            return Err(wrong_phase(container, " (unpause it first)"));
        }
        let session = self.connect(container)?;
        session.request(&Request::Exec(Box::new(exec)))?;
        Ok(session)
    }

    /// Sends a signal to the container's first process. SIGKILL also ends one that is starting.
    ///
    /// # Errors
    /// [`Error::WrongPhase`], the monitor's, and those of the connection.
    pub fn signal(&self, container: &Container, signal: i32) -> Result<(), Error> {
        require_live(container)?;
        self.signal_monitor(container, Signal::SIGCONT)?;
        let mut session = self.connect(container)?;
        session.request(&Request::Signal(signal))?;
        session.done()
    }

    /// Ends a container: its stop signal, then SIGKILL after `timeout_s` seconds. Blocks until it
    /// is down. One that does not run is left as it is.
    ///
    /// # Errors
    /// The monitor's, and those of the connection.
    pub fn stop(&self, container: &Container, timeout_s: Option<u64>) -> Result<(), Error> {
        if !container.status.is_live() {
            return Ok(());
        }
        self.signal_monitor(container, Signal::SIGCONT)?;
        let mut session = self.connect(container)?;
        session.request(&Request::Stop { timeout_s })?;
        match session.done() {
            Ok(()) => session.closed(),
            // Its monitor was killed, and the container with it.
            Err(Error::MonitorGone(name)) => match self.settle_after_monitor(container)? {
                Some(container) if container.status.is_live() => {
                    return Err(Error::MonitorGone(name));
                }
                _ => {}
            },
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Blocks until a container has ended, and tells how. One that does not run tells at once.
    ///
    /// # Errors
    /// Those of the connection.
    pub fn wait(&self, container: &Container) -> Result<Exited, Error> {
        let over = |container: &Container| Exited {
            exit_code: container.status.exit_code,
            error: container.status.error.clone(),
            timings: control::Timings::default(),
        };
        if !container.status.is_live() {
            return Ok(over(container));
        }
        let ended = self.connect(container).and_then(|mut session| {
            session.request(&Request::Wait)?;
            session.exited()
        });
        match ended {
            // Its monitor died, or ended between our look and our call: the record knows.
            Err(Error::MonitorGone(name)) => match self.settle_after_monitor(container)? {
                Some(container) if !container.status.is_live() => Ok(over(&container)),
                _ => Err(Error::MonitorGone(name)),
            },
            other => other,
        }
    }

    /// Removes a container and everything of it. With `force`, one that runs is killed first.
    ///
    /// # Errors
    /// [`Error::WrongPhase`] for one that runs, [`Error::File`].
    pub fn remove(&self, container: &Container, force: bool) -> Result<(), Error> {
        if container.status.is_live() {
            if !force {
                return Err(wrong_phase(container, " (stop it first, or use rm -f)"));
            }
            self.kill(container)?;
        }
        self.containers.remove_dir(&container.config.id)
    }

    /// Ends a container whatever it takes: a monitor that does not manage in time is ended too,
    /// and its VM with it.
    fn kill(&self, container: &Container) -> Result<(), Error> {
        self.signal_monitor(container, Signal::SIGCONT)?;
        let asked = self.connect(container).and_then(|session| {
            session.request(&Request::Stop { timeout_s: Some(0) })?;
            Ok(session)
        });
        let deadline = Instant::now() + REMOVE_GRACE;
        while self.containers.is_attended(container)? {
            if asked.is_err() || Instant::now() > deadline {
                self.signal_monitor(container, Signal::SIGKILL)?;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Signals a container's monitor, if it lives. SIGCONT before it is asked to end the container:
    /// one that somebody stopped would never answer.
    fn signal_monitor(&self, container: &Container, signal: Signal) -> Result<(), Error> {
        let monitor = container.dir.monitor_pid().and_then(|pid| process::pidfd_of(pid).ok());
        // Who holds the lock has written the number: held still, the number is nobody else's by
        // now.
        if let Some(monitor) = monitor
            && self.containers.is_attended(container)?
        {
            // Gone meanwhile is as good.
            let _ = process::send_signal(monitor.as_fd(), signal);
        }
        Ok(())
    }

    /// As [`Engine::settle`], for a container whose monitor is on its way out: a process that is
    /// killed closes its connections before it lets go of its lock.
    ///
    /// # Errors
    /// [`Error::File`], [`Error::Corrupt`].
    pub fn settle_after_monitor(&self, container: &Container) -> Result<Option<Container>, Error> {
        let deadline = Instant::now() + MONITOR_EXIT;
        while self.containers.is_attended(container)? && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        self.settle(container)
    }

    /// As [`Engine::settle_after_monitor`], of a container whose start failed: one that was to be
    /// removed at its end is, however far its monitor came.
    ///
    /// # Errors
    /// Those of [`Engine::settle_after_monitor`] and of [`Engine::remove`].
    pub fn settle_failed_start(&self, container: &Container) -> Result<(), Error> {
        match self.settle_after_monitor(container)? {
            Some(left) if left.config.auto_remove && !left.status.is_live() => {
                self.containers.remove_dir(&left.config.id)
            }
            _ => Ok(()),
        }
    }

    /// What is left of a container whose session broke off: set right, or removed where it was to
    /// be.
    ///
    /// # Errors
    /// [`Error::File`], [`Error::Corrupt`].
    pub fn settle(&self, container: &Container) -> Result<Option<Container>, Error> {
        self.containers.get(&container.config.id)
    }
}

fn wrong_phase(container: &Container, hint: &'static str) -> Error {
    let phase = match container.status.phase {
        Phase::Running if container.status.paused => "paused",
        Phase::Running => "running",
        Phase::Starting => "starting",
        Phase::Created | Phase::Exited => "not running",
    };
    Error::WrongPhase { name: container.config.name.clone(), phase, hint }
}

fn require_live(container: &Container) -> Result<(), Error> {
    if container.status.is_live() { Ok(()) } else { Err(wrong_phase(container, "")) }
}
