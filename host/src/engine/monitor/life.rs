//! One run of a container: the phases of the monitor, in order.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use husk_protocols::id::ContainerId;
use jiff::Timestamp;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::boot::{self, Booted};
use super::control::{Connection, Ending, Frozen, Socket, View, serve_attached, session};
use super::error::SandboxError;
use super::sandbox::Sandbox;
use super::setup::set_up;
use super::stdio::Hub;
use crate::engine::control;
use crate::engine::control::{Event, Request, Timings};
use crate::engine::dirs::Dirs;
use crate::engine::error::{Error, chain};
use crate::engine::record::{Phase, Status};
use crate::engine::store::{Container, Store};
use crate::guest::Exit;
use crate::hypervisor::Vm;
use crate::sys::lock::Lock;

/// How long clients may take to read the last output, the agent to power off, and the VM to end.
const LAST_OUTPUT: Duration = Duration::from_secs(30);
const POWER_OFF: Duration = Duration::from_secs(10);
/// How long clients may take to hear of the end.
const FAREWELL: Duration = Duration::from_secs(2);

/// Lives a container's run from its first client to its end.
pub async fn live(id: &ContainerId, dirs: &Dirs, client: UnixStream) -> Result<(), Error> {
    let store = Store::open(dirs)?;
    let mut client = Connection::new(client).map_err(Error::file("talk to", "the client"))?;
    match Monitor::lock(id, &store) {
        Ok(monitor) => monitor.run(client).await,
        Err(error) => {
            // Take the request first: the client is still writing it.
            let _ = client.receive().await;
            let event = Event::Failed { exit_code: error.exit_code(), message: chain(&error) };
            client.send(&event, &[]).await;
            Err(error)
        }
    }
}

struct Monitor {
    store: Store,
    container: Container,
    status: Status,
    socket: Socket,
    timings: Timings,
    _lock: Lock,
}

/// A container whose process has been let go.
struct Running {
    vm: Box<dyn Vm>,
    sandbox: Arc<Sandbox>,
    hub: Hub,
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn monotonic_ns() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
    now.map_or(0, |now| micros(Duration::from(now)).saturating_mul(1000))
}

impl Monitor {
    /// From here on the container is this process's.
    fn lock(id: &ContainerId, store: &Store) -> Result<Self, Error> {
        let missing = || Error::NoSuchContainer(id.to_string());
        let container = store.get(id)?.ok_or_else(missing)?;
        let path = container.dir.lock();
        let lock = Lock::try_acquire(&path).map_err(Error::file("lock", path))?;
        let Some(lock) = lock else {
            return Err(Error::WrongPhase {
                name: container.config.name.clone(),
                phase: "already running",
                hint: "",
            });
        };
        // Removed between our look and our lock?
        let container = store.get(id)?.ok_or_else(missing)?;
        let pid = std::process::id();
        let note = || {
            lock.file().set_len(0)?;
            writeln!(lock.file(), "{pid}")
        };
        note().map_err(Error::file("write", container.dir.lock()))?;
        let socket = store.socket(id);
        let socket = Socket::bind(&socket).map_err(Error::file("bind", socket))?;
        let mut status = container.status.clone();
        status.phase = Phase::Starting;
        status.monitor_pid = i32::try_from(pid).unwrap_or_default();
        status.error.clear();
        status.oom_killed = false;
        container.dir.write_status(&status)?;
        let store = store.clone();
        let timings = Timings::default();
        Ok(Self { store, container, status, socket, timings, _lock: lock })
    }

    async fn run(mut self, mut client: Connection) -> Result<(), Error> {
        let (sandbox, sandbox_seen) = watch::channel(None);
        let (ending, ending_seen) = watch::channel(None);
        let (freezer, mut frozen) = mpsc::channel(1);
        let view = View {
            sandbox: sandbox_seen,
            ending: ending_seen,
            abort: Arc::new(watch::channel(false).0),
            freezer,
        };
        let mut sessions = JoinSet::new();
        let started = self.start(&mut client, &view, &mut sessions).await;
        let end = match started {
            Err(error) => {
                let event = Event::Failed { exit_code: error.exit_code(), message: chain(&error) };
                let end = self.record_failure(&error);
                client.send(&event, &[]).await;
                Ok(end)
            }
            Ok((running, attached)) => {
                sandbox.send_replace(Some(running.sandbox.clone()));
                if attached {
                    sessions.spawn(attended(client, view.clone(), running.sandbox.clone()));
                }
                let end = self.attend(running, &view, &mut sessions, &mut frozen).await;
                sandbox.send_replace(None);
                end
            }
        };
        ending.send_replace(Some(end?));
        let farewell = async { while sessions.join_next().await.is_some() {} };
        // A client that does not read is not waited for.
        let _ = tokio::time::timeout(FAREWELL, farewell).await;
        Ok(())
    }

    /// Boots and starts, serving other clients and listening for an abort meanwhile.
    async fn start(
        &mut self,
        client: &mut Connection,
        view: &View,
        sessions: &mut JoinSet<()>,
    ) -> Result<(Running, bool), SandboxError> {
        let mut abort = view.abort.subscribe();
        let request = client.receive().await.map_err(SandboxError::io("read the request"))?;
        let Some(Request::Start { attach, client_started_ns }) = request else {
            return Err(SandboxError::Aborted);
        };
        self.timings.client_us = monotonic_ns().saturating_sub(client_started_ns) / 1000;
        let mut terminate = signal(SignalKind::terminate()).map_err(SandboxError::io("signals"))?;
        let (running, announced) = {
            let (status, timings, container) =
                (&mut self.status, &mut self.timings, &self.container);
            let mut chosen = |choice, pid| {
                status.hypervisor = Some(choice);
                status.vm_pid = pid;
                if let Err(error) = container.dir.write_status(status) {
                    tracing::warn!(error = %chain(&error), "status");
                }
            };
            let starting = async {
                let began = Instant::now();
                let booted = boot::boot(container, &mut chosen).await?;
                note_boot(timings, began, &booted);
                create(container, booted, attach, client).await
            };
            tokio::pin!(starting);
            loop {
                tokio::select! {
                    outcome = &mut starting => break outcome?,
                    _ = abort.wait_for(|&abort| abort) => return Err(SandboxError::Aborted),
                    _ = terminate.recv() => return Err(SandboxError::Aborted),
                    Ok((socket, _)) = self.socket.listener.accept() => accept(socket, view, sessions),
                }
            }
        };
        self.timings.container_us = micros(announced.elapsed());
        self.status.phase = Phase::Running;
        self.status.started = Some(Timestamp::now());
        self.status.finished = None;
        self.status.exit_code = 0;
        self.container.dir.write_status(&self.status)?;
        client.send(&Event::Started, &[]).await;
        Ok((running, attach.is_some()))
    }

    /// The container runs; returns when it is over and taken down.
    async fn attend(
        &mut self,
        mut running: Running,
        view: &View,
        sessions: &mut JoinSet<()>,
        frozen: &mut mpsc::Receiver<Frozen>,
    ) -> Result<Ending, Error> {
        let began = Instant::now();
        let sandbox = running.sandbox.clone();
        let first = sandbox.first_process();
        let mut abort = view.abort.subscribe();
        let mut terminate =
            signal(SignalKind::terminate()).map_err(Error::file("watch", "signals"))?;
        let outcome = {
            let waiting = sandbox.agent.wait(&first);
            let died = boot::ended(&*running.vm);
            tokio::pin!(waiting, died);
            loop {
                tokio::select! {
                    exit = &mut waiting => match exit {
                        Ok(exit) => break Some(exit),
                        // The connection broke: the VM is going down, and knows more.
                        Err(error) => {
                            let _ = tokio::time::timeout(FAREWELL, &mut died).await;
                            tracing::debug!(%error, "wait for the container");
                            break None;
                        }
                    },
                    () = &mut died => break None,
                    _ = abort.wait_for(|&abort| abort) => break Some(killed()),
                    _ = terminate.recv() => break Some(killed()),
                    Ok((socket, _)) = self.socket.listener.accept() => accept(socket, view, sessions),
                    Some(note) = frozen.recv() => note_frozen(&mut self.status, &self.container, note),
                    Some(_) = sessions.join_next() => {}
                }
            }
        };
        let outcome = outcome.ok_or_else(|| died_of(&mut *running.vm));
        if outcome.is_err() || *view.abort.borrow() {
            kill(&mut running);
        }
        let _ = tokio::time::timeout(LAST_OUTPUT, running.hub.drained()).await;
        self.timings.run_us = micros(began.elapsed());
        Ok(self.finish(running, outcome).await)
    }

    /// Takes the VM down and writes the end of the run.
    async fn finish(
        &mut self,
        mut running: Running,
        outcome: Result<Exit, SandboxError>,
    ) -> Ending {
        let began = Instant::now();
        if outcome.is_ok() && !self.container.config.auto_remove {
            power_off(&running, &self.container.config.id).await;
        }
        kill(&mut running);
        drop(running);
        match outcome {
            Err(error) => self.record_failure(&error),
            Ok(exit) => {
                self.status.oom_killed = exit.oom_killed;
                self.record_end(exit.code, String::new(), began)
            }
        }
    }

    fn record_failure(&mut self, error: &SandboxError) -> Ending {
        self.record_end(i32::from(error.exit_code()), chain(error), Instant::now())
    }

    /// Writes the end down, or says in the log why not: clients are told in either case, and the
    /// next look at the container finds that nobody attends to it.
    fn record_end(&mut self, code: i32, error: String, began: Instant) -> Ending {
        let ran = self.status.phase == Phase::Running;
        let status = &mut self.status;
        status.phase = if status.started.is_some() { Phase::Exited } else { Phase::Created };
        if ran {
            status.finished = Some(Timestamp::now());
        }
        status.exit_code = code;
        status.error = error;
        status.paused = false;
        status.monitor_pid = 0;
        status.vm_pid = 0;
        let recorded = if self.container.config.auto_remove {
            self.store.remove_dir(&self.container.config.id)
        } else {
            self.container.dir.write_status(status)
        };
        if let Err(error) = recorded {
            tracing::error!(error = %chain(&error), "the end of the container is not recorded");
        }
        self.timings.teardown_us = micros(began.elapsed());
        Ending { exit_code: code, error: status.error.clone(), timings: self.timings }
    }
}

fn note_frozen(status: &mut Status, container: &Container, note: Frozen) {
    status.paused = note.paused;
    if let Err(error) = container.dir.write_status(status) {
        tracing::error!(error = %chain(&error), "a pause is not recorded");
    }
    // A client that is gone needs no answer.
    let _ = note.noted.send(());
}

fn kill(running: &mut Running) {
    if let Err(error) = running.vm.kill() {
        tracing::error!(%error, "kill the VM");
    }
}

fn died_of(vm: &mut dyn Vm) -> SandboxError {
    SandboxError::Died(Box::new(vm.diagnose()))
}

fn killed() -> Exit {
    Exit { code: 128 + nix::libc::SIGKILL, oom_killed: false }
}

fn accept(socket: tokio::net::UnixStream, view: &View, sessions: &mut JoinSet<()>) {
    let connection = socket.into_std().and_then(Connection::new);
    match connection {
        Ok(connection) => drop(sessions.spawn(session(connection, view.clone()))),
        Err(error) => tracing::warn!(%error, "a client could not be served"),
    }
}

fn note_boot(timings: &mut Timings, began: Instant, booted: &Booted) {
    timings.vm_start_us = micros(booted.started - began);
    let guest_us = micros(booted.announced - booted.started);
    timings.agent_us = u64::from(booted.hello.agent_us).min(guest_us);
    timings.kernel_us = guest_us - timings.agent_us;
}

/// The first client, after its container has started.
async fn attended(mut client: Connection, view: View, sandbox: Arc<Sandbox>) {
    serve_attached(&mut client, &view, &sandbox, &sandbox.first_process()).await;
    client.send(&view.ended().await.event(), &[]).await;
}

/// Sets the container up in a booted VM and lets it go. Returns when creation began as well.
async fn create(
    container: &Container,
    mut booted: Booted,
    attach: Option<control::Attach>,
    client: &Connection,
) -> Result<(Running, Instant), SandboxError> {
    match set_up(container, &booted, attach, client).await {
        Ok((sandbox, hub)) => Ok((Running { vm: booted.vm, sandbox, hub }, booted.announced)),
        Err(error) => Err(boot::explain(error, &mut *booted.vm).await),
    }
}

/// Everything written out, then off. A guest that does not manage is killed by the caller; its
/// journal makes the disk whole at the next start.
async fn power_off(running: &Running, id: &ContainerId) {
    let orderly = async {
        running.sandbox.agent.delete(id).await?;
        running.sandbox.agent.shutdown(POWER_OFF).await
    };
    match tokio::time::timeout(POWER_OFF, orderly).await {
        Ok(Ok(())) => {
            let _ = tokio::time::timeout(POWER_OFF, boot::ended(&*running.vm)).await;
        }
        Ok(Err(error)) => tracing::warn!(%error, "power the guest off"),
        Err(_) => tracing::warn!("the guest did not power off in time"),
    }
}
