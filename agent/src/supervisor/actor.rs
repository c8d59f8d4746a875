//! The task that owns all containers. It never waits for anything but its messages and its
//! children.

use std::{
    collections::HashMap,
    os::fd::{AsFd, OwnedFd},
};

use husk_protocols::id::{ContainerId, ExecId};
use nix::{errno::Errno, unistd::Pid};
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    ExecOrder, ProcessKey, Reaper, Recipients, Reply, Request, Result, State, Status,
    SupervisorError, create,
    delete::{self, delete_all},
    desk::{Desk, Note, SpawnOrder},
    events::{Events, Happening},
    exec, hooks,
    isolation::{OwnNamespaces, own_program},
    process::{Done, Process, Spawned},
    table::{Container, Exec, Freezer, Phase, Present},
    target::Target,
    witness::Witness,
};
use crate::{
    cgroup,
    container::STAGE_NAME,
    stdio::Streams,
    sys::{
        self,
        clone::Child,
        process::ExitCode,
        spawn::{Spawn, Visited, spawn},
        terminal::WindowSize,
    },
};

/// A child whose end is awaited.
struct Awaited {
    owner: (ContainerId, Option<ExecId>),
    exit: oneshot::Sender<ExitCode>,
}

/// The state.
pub struct Actor {
    pub(super) containers: HashMap<ContainerId, Container>,
    children: HashMap<Pid, Awaited>,
    /// The agent's own program, for second stages.
    program: OwnedFd,
    own: OwnNamespaces,
    pub(super) desk: Desk,
    pub(super) events: Events,
    notes: mpsc::UnboundedReceiver<Note>,
    closing: watch::Sender<bool>,
}

/// Answers a request. One who has stopped waiting misses nothing.
pub(super) fn answer<T>(reply: Reply<T>, result: Result<T>) {
    let _ = reply.send(result);
}

/// Why a container is not to be had.
fn absent(id: &ContainerId, found: Option<&Container>) -> SupervisorError {
    match found {
        Some(found) => SupervisorError::WrongState { id: id.clone(), state: found.state() },
        None => SupervisorError::NoContainer(id.clone()),
    }
}

impl Actor {
    pub fn new(streams: Streams) -> Result<Self> {
        let (notes, received) = mpsc::unbounded_channel();
        let (closing, told) = watch::channel(false);
        Ok(Self {
            containers: HashMap::new(),
            children: HashMap::new(),
            program: own_program()?,
            own: OwnNamespaces::open()?,
            desk: Desk::new(notes, streams, told),
            events: Events::default(),
            notes: received,
            closing,
        })
    }

    pub async fn run(mut self, mut requests: mpsc::Receiver<Request>, reaper: Reaper) {
        loop {
            tokio::select! {
                () = reaper.wait() => {
                    while let Some((pid, code)) = reaper.take() {
                        self.ended(pid, code);
                    }
                }
                Some(note) = self.notes.recv() => self.note(note),
                request = requests.recv() => match request {
                    Some(request) => self.request(request),
                    None => return,
                },
            }
        }
    }

    fn request(&mut self, request: Request) {
        match request {
            Request::Create(order, reply) => self.create(*order, reply),
            Request::Start(id, reply) => self.start(id, reply),
            Request::Exec(order, reply) => self.exec(*order, reply),
            Request::Signal(key, signal, to, reply) => self.signal(&key, signal, to, reply),
            Request::Wait(key, reply) => answer(reply, self.wait(&key)),
            Request::Resize(key, size, reply) => answer(reply, self.resize(&key, size)),
            Request::CloseStdin(key, reply) => {
                answer(reply, self.process(&key).map(|process| process.controls.close_stdin()));
            }
            Request::Reach(id, reply) => answer(reply, self.reach(&id)),
            Request::Freeze(id, frozen, reply) => self.freeze(id, frozen, reply),
            Request::Updated(id, reply) => {
                self.events.push(id, None, Happening::Updated);
                answer(reply, Ok(()));
            }
            Request::Events(after, limit, reply) => {
                answer(reply, Ok((self.events.since(after, limit), self.events.news())));
            }
            Request::Delete(id, reply) => self.delete(id, reply),
            Request::List(reply) => answer(reply, Ok(self.list())),
            Request::Shutdown(reply) => self.shut_down(reply),
        }
    }

    fn note(&mut self, note: Note) {
        match note {
            Note::Spawn(order, reply) => answer(reply, self.spawn(&order)),
            Note::SpawnHook(order, reply) => {
                let child = order.start().map_err(hooks::not_started);
                let owner = (order.owner.clone(), None);
                answer(reply, child.map(|child| self.adopt(child, owner)));
            }
            Note::Created(id, result, reply) => self.created(id, result, reply),
            Note::Executes(id) => self.started(&id, true),
            Note::Started(id, result, reply) => {
                self.started(&id, result.is_ok());
                if result.is_ok() {
                    self.events.push(id, None, Happening::Started);
                }
                answer(reply, result);
            }
            Note::Executed(id, exec, result, reply) => self.executed(&id, &exec, result, reply),
            Note::Frozen(id, frozen, result, reply) => self.frozen(id, frozen, result, reply),
            Note::Happened(id, exec, happening) => self.events.push(id, exec, happening),
            Note::Deleted(id, result, reply) => {
                self.containers.remove(&id);
                self.events.push(id, None, Happening::Deleted);
                answer(reply, result);
            }
            Note::Destroy(id, reply) => self.destroy(id, reply),
            Note::Reach(id, reply) => answer(reply, self.reach(&id)),
        }
    }

    /// Starts a second stage and awaits its end from that very moment.
    fn spawn(&mut self, order: &SpawnOrder) -> Result<Spawned> {
        let (container, exec) = &order.owner;
        // One that comes late would outlive its container in a pid namespace that lives on.
        if exec.is_some() && !self.present(container).is_ok_and(Present::is_alive) {
            return Err(SupervisorError::NotRunning);
        }
        let descriptors = order.descriptors();
        let visited = order.visited().into_iter().filter_map(|(kind, namespace)| {
            let own = self.own.of(kind)?;
            Some(Visited { namespace, own, kind: kind.flag() })
        });
        let visited: Vec<Visited<'_>> = visited.collect();
        let start = |cgroup| {
            spawn(&Spawn {
                program: self.program.as_fd(),
                name: STAGE_NAME,
                descriptors: &descriptors,
                cgroup,
                visited: &visited,
                new_pid_namespace: order.has_new_pid(),
                user_namespace: order.user(),
            })
        };
        let child = match start(order.cgroup.folder()) {
            // The container has made cgroups of its own and left the outer one empty.
            Err(Errno::EBUSY) if order.owner.1.is_some() => {
                let folder = self.present(&order.owner.0).and_then(|present| {
                    cgroup::folder_of(present.first.pid)
                        .map_err(SupervisorError::step("find the cgroup of the container"))
                })?;
                start(folder.as_fd())
            }
            result => result,
        }
        .map_err(|errno| order.explain(errno))?;
        Ok(self.adopt(child, order.owner.clone()))
    }

    fn adopt(&mut self, child: Child, owner: (ContainerId, Option<ExecId>)) -> Spawned {
        let (exit, awaited) = oneshot::channel();
        self.children.insert(child.pid, Awaited { owner, exit });
        Spawned { pid: child.pid, pidfd: child.pidfd.into(), exit: awaited }
    }

    /// A child has ended.
    fn ended(&mut self, pid: Pid, code: ExitCode) {
        // An orphan from a namespace that has ended is nobody's.
        let Some(Awaited { owner: (id, exec), exit }) = self.children.remove(&pid) else { return };
        if let Some(Container::Present(present)) = self.containers.get_mut(&id) {
            match &exec {
                Some(exec) => present.execs.end(exec),
                None if present.first.pid == pid => present.phase = Phase::Stopped,
                None => {}
            }
        }
        // A job that was given up does not listen.
        let _ = exit.send(code);
    }

    fn present(&self, id: &ContainerId) -> Result<&Present> {
        match self.containers.get(id) {
            Some(Container::Present(present)) => Ok(present),
            other => Err(absent(id, other)),
        }
    }

    pub(super) fn present_mut(&mut self, id: &ContainerId) -> Result<&mut Present> {
        match self.containers.get_mut(id) {
            Some(Container::Present(present)) => Ok(present),
            other => Err(absent(id, other.as_deref())),
        }
    }

    /// A process, alive or ended.
    fn process(&self, key: &ProcessKey) -> Result<&Process> {
        let present = self.present(&key.container)?;
        let Some(exec) = &key.exec else { return Ok(&present.first) };
        match present.execs.get(exec) {
            Some(Exec::Running(process) | Exec::Ended(process)) => Ok(process),
            Some(Exec::Starting) | None => Err(SupervisorError::no_process(key)),
        }
    }

    fn create(&mut self, order: super::CreateOrder, reply: Reply<u32>) {
        if *self.closing.borrow() {
            return answer(reply, Err(SupervisorError::Gone));
        }
        let id = order.id.clone();
        if self.containers.contains_key(&id) {
            return answer(reply, Err(SupervisorError::Exists(format!("container {id}"))));
        }
        self.containers.insert(id.clone(), Container::Creating);
        let desk = self.desk.clone();
        tokio::spawn(async move {
            let result = create::create(order, desk.clone()).await;
            desk.tell(Note::Created(id, result, reply));
        });
    }

    fn created(&mut self, id: ContainerId, result: Result<Box<Present>>, reply: Reply<u32>) {
        match result {
            Ok(mut present) => {
                // It may have been killed between its last report and now.
                if !self.children.contains_key(&present.first.pid) {
                    present.phase = Phase::Stopped;
                }
                let pid = present.first.number();
                self.events.push(id.clone(), None, Happening::Created);
                self.containers.insert(id, Container::Present(present));
                answer(reply, Ok(pid));
            }
            Err(error) => {
                self.containers.remove(&id);
                answer(reply, Err(error));
            }
        }
    }

    fn start(&mut self, id: ContainerId, reply: Reply<()>) {
        let present = match self.present_mut(&id) {
            Ok(present) => present,
            Err(error) => return answer(reply, Err(error)),
        };
        match std::mem::replace(&mut present.phase, Phase::Starting) {
            Phase::Created(stage) => {
                let poststart = present.poststart();
                let desk = self.desk.clone();
                tokio::spawn(async move {
                    let mut result = create::start(stage).await;
                    if let (Ok(()), Some(poststart)) = (&result, poststart) {
                        desk.tell(Note::Executes(id.clone()));
                        result = poststart.run(&desk).await;
                    }
                    desk.tell(Note::Started(id, result, reply));
                });
            }
            other => {
                present.phase = other;
                let state = self.containers.get(&id).map_or(State::Stopped, Container::state);
                answer(reply, Err(SupervisorError::WrongState { id, state }));
            }
        }
    }

    /// A first process has come as far as the user's program, or to its hooks after that.
    fn started(&mut self, id: &ContainerId, well: bool) {
        let Some(Container::Present(present)) = self.containers.get_mut(id) else { return };
        match present.phase {
            Phase::Starting if well => present.phase = Phase::Running,
            // A stage that has failed is about to end, as is a process that a hook has condemned:
            // nobody needs to wait for it.
            Phase::Starting | Phase::Running if !well => present.phase = Phase::Stopped,
            _ => {}
        }
    }

    fn exec(&mut self, order: ExecOrder, reply: Reply<u32>) {
        let (id, exec) = (order.container.clone(), order.exec.clone());
        let target = match self.reserve(&id, &exec) {
            Ok(target) => target,
            Err(error) => return answer(reply, Err(error)),
        };
        let desk = self.desk.clone();
        tokio::spawn(async move {
            let result = exec::exec(order, target, desk.clone()).await;
            desk.tell(Note::Executed(id, exec, result, reply));
        });
    }

    fn reserve(&mut self, id: &ContainerId, exec: &ExecId) -> Result<Target> {
        let present = self.present_mut(id)?;
        if !matches!(present.phase, Phase::Running) {
            return Err(SupervisorError::NotRunning);
        }
        if present.freezer != Freezer::Thawed {
            return Err(SupervisorError::WrongState { id: id.clone(), state: State::Paused });
        }
        if !present.execs.reserve(exec) {
            return Err(SupervisorError::Exists(format!("exec {exec} in {id}")));
        }
        Ok(present.target())
    }

    fn reach(&self, id: &ContainerId) -> Result<Target> {
        self.present(id).map(Present::target)
    }

    fn executed(
        &mut self,
        id: &ContainerId,
        exec: &ExecId,
        result: Result<Process>,
        reply: Reply<u32>,
    ) {
        let result = match result {
            Ok(mut process) => {
                let desk = self.desk.clone();
                let (container, name) = (id.clone(), exec.clone());
                let done = process.done.clone();
                process.witness = Some(Witness::of_exec(container, name, done, desk));
                self.events.push(id.clone(), Some(exec.clone()), Happening::ExecStarted);
                let (pid, number) = (process.pid, process.number());
                let alive = self.children.contains_key(&pid);
                match self.present_mut(id) {
                    Ok(present) => {
                        present.execs.settle(exec, Some(process));
                        if !alive {
                            present.execs.end(exec);
                        }
                        Ok(number)
                    }
                    Err(error) => Err(error),
                }
            }
            Err(error) => {
                if let Ok(present) = self.present_mut(id) {
                    present.execs.settle(exec, None);
                }
                Err(error)
            }
        };
        answer(reply, result);
    }

    fn signal(&mut self, key: &ProcessKey, signal: i32, to: Recipients, reply: Reply<()>) {
        let present = match self.present(&key.container) {
            Ok(present) if present.is_alive() => present,
            Ok(_) => return answer(reply, Err(SupervisorError::NotRunning)),
            Err(error) => return answer(reply, Err(error)),
        };
        if to == Recipients::One {
            return answer(reply, self.signal_one(key, signal));
        }
        let cgroup = present.assets.cgroup.clone();
        tokio::task::spawn_blocking(move || {
            let result = match signal {
                libc::SIGKILL => cgroup.kill(),
                signal => cgroup.signal(signal),
            };
            answer(reply, result.map_err(SupervisorError::from));
        });
    }

    fn signal_one(&self, key: &ProcessKey, signal: i32) -> Result<()> {
        let process = self.process(key)?;
        match sys::process::send_signal(process.pidfd.as_fd(), signal) {
            Err(Errno::ESRCH) if key.exec.is_none() => Err(SupervisorError::NotRunning),
            Err(Errno::ESRCH) => Err(SupervisorError::ProcessEnded),
            result => result.map_err(SupervisorError::step("send the signal")),
        }
    }

    fn wait(&self, key: &ProcessKey) -> Result<Done> {
        self.process(key).map(|process| process.done.clone())
    }

    fn resize(&self, key: &ProcessKey, size: WindowSize) -> Result<()> {
        let process = self.process(key)?;
        let terminal = process.controls.terminal.as_ref().ok_or(SupervisorError::NoTerminal)?;
        sys::terminal::set_window(terminal.descriptor(), size)
            .map_err(SupervisorError::step("resize the terminal"))
    }

    fn delete(&mut self, id: ContainerId, reply: Reply<()>) {
        match self.present(&id) {
            Ok(Present { phase: Phase::Running | Phase::Starting, freezer, .. }) => {
                let paused = *freezer == Freezer::Frozen;
                let state = if paused { State::Paused } else { State::Running };
                answer(reply, Err(SupervisorError::WrongState { id, state }));
            }
            Ok(_) => self.destroy(id, reply),
            Err(error) => answer(reply, Err(error)),
        }
    }

    fn destroy(&mut self, id: ContainerId, reply: Reply<()>) {
        match self.containers.insert(id.clone(), Container::Deleting) {
            Some(Container::Present(present)) => {
                let desk = self.desk.clone();
                tokio::spawn(async move {
                    let result = delete::delete(present, &desk).await;
                    desk.tell(Note::Deleted(id, result, reply));
                });
            }
            Some(other) => {
                let state = other.state();
                self.containers.insert(id.clone(), other);
                answer(reply, Err(SupervisorError::WrongState { id, state }));
            }
            None => {
                self.containers.remove(&id);
                answer(reply, Err(SupervisorError::NoContainer(id)));
            }
        }
    }

    fn list(&self) -> Vec<Status> {
        let mut list: Vec<Status> = self
            .containers
            .iter()
            .map(|(id, container)| Status {
                id: id.clone(),
                state: container.state(),
                pid: container.pid(),
            })
            .collect();
        list.sort_by(|a, b| a.id.cmp(&b.id));
        list
    }

    fn shut_down(&mut self, reply: Reply<()>) {
        self.closing.send_replace(true);
        let containers = self.containers.keys().cloned().collect();
        let desk = self.desk.clone();
        tokio::spawn(async move {
            let result = delete_all(containers, desk).await;
            answer(reply, result);
        });
    }
}
