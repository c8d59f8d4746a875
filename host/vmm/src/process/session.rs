//! The main thread while the guest runs: serves devices and the monitor in turn, to the end of
//! either the guest or the monitor.
//!
//! ```text
//! Waiting --Start--> Running <--Pause, Resume--> Paused
//!                       |                           |
//!                       '------ Stop, exits --------'--> End
//! ```

use std::fmt;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::devices::Devices;
use super::end::End;
use super::hotplug::{Resizer, Stragglers};
use super::meter::Meter;
use super::{ProcessError, system};
use crate::control::{Call, ControlError, Event, Reply, Request, Server, Statistics};
use crate::event_loop::EventLoop;
use crate::jail;
use crate::machine::{Exit, Running};
use crate::memory::Ram;
use crate::virtio::vsock::Progress;

/// How long what is at work may take to end at a pause, which is refused if it takes longer.
const REST: Duration = Duration::from_secs(5);
/// Turns of the devices after the guest's end: more than full queues need.
const LAST_TURNS: usize = 64;

const TOKEN_CONTROL: u64 = 0;
const TOKEN_EXIT: u64 = 1;
const TOKEN_DEVICES: u64 = 2;
const TOKEN_CONSOLE: u64 = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    Running,
    Paused,
}

/// See the module.
pub struct Session {
    epoll: Epoll,
    state: State,
    control: Server,
    // Dropped in this order: processors use devices, devices use memory.
    running: Running,
    events: EventLoop,
    devices: Devices,
    ram: Ram,
    stragglers: Stragglers,
    meter: Option<Meter>,
    /// What the monitor was told of the guest.
    told: Progress,
    /// The control socket is watched for room.
    awaits_room: bool,
    began: Option<Instant>,
}

impl Session {
    /// A machine whose processors wait at their gate.
    pub fn new(
        control: Server,
        running: Running,
        events: EventLoop,
        devices: Devices,
        meter: Option<Meter>,
        ram: Ram,
    ) -> Result<Self, ProcessError> {
        let watch = || -> nix::Result<Epoll> {
            let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
            epoll.add(&control, EpollEvent::new(EpollFlags::EPOLLIN, TOKEN_CONTROL))?;
            let exit = EpollEvent::new(EpollFlags::EPOLLIN, TOKEN_EXIT);
            epoll.add(running.exit_event(), exit)?;
            let console = EpollEvent::new(EpollFlags::EPOLLIN, TOKEN_CONSOLE);
            epoll.add(running.console_timer(), console)?;
            // Devices are served from the start: the host may already connect.
            epoll.add(events.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, TOKEN_DEVICES))?;
            Ok(epoll)
        };
        let epoll = watch().map_err(system("watch the machine"))?;
        let mut session = Self {
            epoll,
            state: State::Waiting,
            control,
            running,
            events,
            devices,
            ram,
            stragglers: Stragglers::default(),
            meter,
            told: Progress::Nothing,
            awaits_room: false,
            began: None,
        };
        session.resize_memory()?;
        Ok(session)
    }

    /// Serves until the machine has ended, and takes it down. The monitor is told of `jail`.
    ///
    /// # Errors
    /// [`ProcessError`]: of epoll(7), which fails on no healthy host.
    pub fn serve(&mut self, jail: &jail::Report, start_paused: bool) -> Result<End, ProcessError> {
        let end = match self.begin(jail, start_paused) {
            Ok(()) => self.turns()?,
            Err(error) => End::Deserted(error),
        };
        self.running.stop();
        if matches!(end, End::Machine(_)) {
            self.serve_last()?;
            // How far it came in its last moments; the end is told anyway.
            self.tell_progress()?;
        }
        let ended = Event::Ended { status: end.status(), how: end.to_string() };
        // A monitor that is gone hears nothing.
        let _ = self.control.tell(ended);
        self.devices.quiesce();
        Ok(end)
    }

    /// What the guest sent just before its end is to arrive. It adds nothing any more.
    fn serve_last(&mut self) -> Result<(), ProcessError> {
        for _ in 0..LAST_TURNS {
            if self.events.dispatch().map_err(system("serve the devices"))? == 0 {
                break;
            }
        }
        Ok(())
    }

    fn begin(&mut self, jail: &jail::Report, start_paused: bool) -> Result<(), ControlError> {
        let told = |(name, layer): (&str, &jail::Layer)| (name.to_owned(), layer.to_string());
        let jail = jail.layers().map(told).into_iter().collect();
        self.control.tell(Event::Built { jail })?;
        if !start_paused {
            self.go();
        }
        Ok(())
    }

    fn turns(&mut self) -> Result<End, ProcessError> {
        let mut ready = [EpollEvent::empty(); 4];
        loop {
            let count = match self.epoll.wait(&mut ready, EpollTimeout::NONE) {
                Ok(count) => count,
                Err(Errno::EINTR) => continue,
                Err(error) => return Err(system("wait for events")(error)),
            };
            for event in &ready[..count] {
                if let Some(end) = self.turn(event.data())? {
                    return Ok(end);
                }
            }
            if let Some(end) = self.tell_progress()? {
                return Ok(end);
            }
        }
    }

    fn turn(&mut self, token: u64) -> Result<Option<End>, ProcessError> {
        match token {
            TOKEN_CONTROL => match self.on_control() {
                Ok(end) => Ok(end),
                Err(error) => Ok(Some(End::Deserted(error))),
            },
            TOKEN_EXIT => {
                let unknown = || Exit::Unexpected { reason: "no reason".to_owned() };
                Ok(Some(End::Machine(self.running.exit().unwrap_or_else(unknown))))
            }
            TOKEN_CONSOLE => {
                self.running.settle_console();
                Ok(None)
            }
            _ => {
                if self.state != State::Paused {
                    self.events.dispatch().map_err(system("serve the devices"))?;
                    self.resize_memory()?;
                }
                Ok(None)
            }
        }
    }

    /// Hot-plug memory is there as far as it is needed.
    fn resize_memory(&mut self) -> Result<(), ProcessError> {
        Ok(self.resizer().map_or(Ok(()), |mut resizer| resizer.settle())?)
    }

    fn resizer(&mut self) -> Option<Resizer<'_>> {
        let Self { running, devices, stragglers, .. } = self;
        self.ram.hotplug().map(|hotplug| Resizer { hotplug, running, devices, stragglers })
    }

    fn tell_progress(&mut self) -> Result<Option<End>, ProcessError> {
        let reached = self.devices.progress();
        let news = [(Progress::Driver, Event::DriverReady), (Progress::Packet, Event::FirstPacket)];
        for (progress, event) in news {
            if self.told < progress && progress <= reached {
                self.told = progress;
                if let Err(error) = self.control.tell(event) {
                    return Ok(Some(End::Deserted(error)));
                }
            }
        }
        self.watch_for_room()?;
        Ok(None)
    }

    fn watch_for_room(&mut self) -> Result<(), ProcessError> {
        let waits = self.control.is_waiting();
        if waits != self.awaits_room {
            self.awaits_room = waits;
            let room = if waits { EpollFlags::EPOLLOUT } else { EpollFlags::empty() };
            let mut event = EpollEvent::new(EpollFlags::EPOLLIN | room, TOKEN_CONTROL);
            self.epoll.modify(&self.control, &mut event).map_err(system("watch the monitor"))?;
        }
        Ok(())
    }

    fn on_control(&mut self) -> Result<Option<End>, ControlError> {
        self.control.flush()?;
        // One a turn: the devices wait.
        let Some(Call { id, request }) = self.control.receive()? else { return Ok(None) };
        if request == Request::Stop {
            self.control.reply(id, Reply::Done)?;
            return Ok(Some(End::Stopped));
        }
        let reply = self.answer(&request);
        self.control.reply(id, reply)?;
        Ok(None)
    }

    fn answer(&mut self, request: &Request) -> Reply {
        match (request, self.state) {
            (Request::Start, State::Waiting) => self.go(),
            (Request::Resume, State::Paused) => return self.resume(),
            (Request::Pause, State::Running) => return self.pause(),
            (Request::Pause, State::Paused) | (Request::Resume, State::Running) => {}
            (Request::Statistics, _) => return self.statistics(),
            (Request::Start, _) => return refused("the machine was started before"),
            (Request::Pause | Request::Resume, State::Waiting) => {
                return refused("the machine was not started yet");
            }
            (Request::BalloonTarget { mib }, _) => {
                return changed("balloon", self.devices.set_balloon(*mib));
            }
            (Request::MemTarget { mib }, _) => {
                let change = self.resizer().map(|mut resizer| resizer.set_target_mib(*mib));
                return changed("hot-plug memory", change);
            }
            (Request::DiskLimits { serial, limits }, _) => {
                return changed("disk of this serial", self.devices.limit_disk(serial, limits));
            }
            (Request::NetLimits { mac, rx, tx }, _) => {
                let change = self.devices.limit_net(*mac, rx, tx);
                return changed("network interface of this address", change);
            }
            (Request::Stop, _) => {}
        }
        Reply::Done
    }

    fn go(&mut self) {
        self.began.get_or_insert_with(Instant::now);
        self.state = State::Running;
        self.running.resume();
    }

    fn resume(&mut self) -> Reply {
        match self.watch_devices(true) {
            Ok(()) => {
                self.go();
                Reply::Done
            }
            Err(error) => refused(&format!("wake the devices: {error}")),
        }
    }

    fn pause(&mut self) -> Reply {
        match self.come_to_rest() {
            Ok(()) => {
                self.state = State::Paused;
                Reply::Done
            }
            Err(reason) => {
                self.running.resume();
                refused(&reason)
            }
        }
    }

    /// Nothing of this process changes guest memory when this returns, until the next turn of a
    /// device.
    fn come_to_rest(&self) -> Result<(), String> {
        let until = Instant::now() + REST;
        let late = |who: &str| format!("pause: {who} is at work after {} s", REST.as_secs());
        if !self.running.pause(REST) {
            return Err(late("a processor of the guest"));
        }
        self.devices.rest(until).map_err(|device| late(&format!("the {device}")))?;
        self.watch_devices(false).map_err(|error| format!("let the devices rest: {error}"))
    }

    fn watch_devices(&self, watch: bool) -> nix::Result<()> {
        let interest = if watch { EpollFlags::EPOLLIN } else { EpollFlags::empty() };
        self.epoll.modify(self.events.as_fd(), &mut EpollEvent::new(interest, TOKEN_DEVICES))
    }

    fn statistics(&mut self) -> Reply {
        if self.state == State::Running {
            self.devices.ask_guest();
        }
        let stats = self.running.stats();
        let mut exits: std::collections::BTreeMap<String, u64> =
            stats.exits.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
        exits.insert("unknown_mmio".to_owned(), stats.unknown_mmio);
        exits.insert("unknown_ports".to_owned(), stats.unknown_ports);
        let began = self.began.map(|began| began.elapsed().as_millis());
        let uptime_ms = u64::try_from(began.unwrap_or_default()).unwrap_or(u64::MAX);
        Reply::Statistics(Box::new(Statistics {
            uptime_ms,
            exits,
            devices: self.devices.statistics(),
            memory: self.meter.as_mut().and_then(|meter| meter.measure().ok()),
            console_lost_bytes: stats.console_lost_bytes,
        }))
    }
}

fn changed<E: fmt::Display>(what: &str, change: Option<Result<(), E>>) -> Reply {
    match change {
        Some(Ok(())) => Reply::Done,
        Some(Err(error)) => refused(&error.to_string()),
        None => refused(&format!("there is no {what}")),
    }
}

fn refused(reason: &str) -> Reply {
    Reply::Refused { reason: reason.to_owned() }
}
