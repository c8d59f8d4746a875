//! The engine's side of the control socket: starts monitors, reaches those that run. Blocking.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::control::{Connection, Event, Request, Sender, Timings};
use super::error::{EXIT_HUSK, Error};
use super::monitor;
use super::store::Container;

/// A client's ends of a process's streams.
#[derive(Debug, Default)]
pub struct ClientStreams {
    /// To the process. With a terminal it may be the same socket as `stdout`.
    pub stdin: Option<UnixStream>,
    /// From it.
    pub stdout: Option<UnixStream>,
    /// From it; none with a terminal.
    pub stderr: Option<UnixStream>,
}

/// How a process ended.
#[derive(Debug, Clone)]
pub struct Exited {
    /// As `$?` would be.
    pub exit_code: i32,
    /// Why, when not by itself.
    pub error: String,
    /// Where the time went.
    pub timings: Timings,
}

/// A conversation with a monitor about one process.
#[derive(Debug)]
pub struct Session {
    name: String,
    connection: Connection,
    /// The monitor, where this process started it.
    child: Option<Child>,
}

impl Session {
    /// Starts the container's monitor, connected to this session.
    pub(super) fn spawn(container: &Container) -> Result<Self, Error> {
        let name = &container.config.name;
        let (ours, theirs) = UnixStream::pair().map_err(control_error(name))?;
        let log = container.dir.monitor_log();
        let stderr = OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(true)
            .open(&log)
            .map_err(Error::file("open", log))?;
        let exe = std::env::current_exe().map_err(Error::file("find", "husk's own program"))?;
        let child = Command::new(&exe)
            .arg0("husk-monitor")
            .args([monitor::COMMAND, container.config.id.as_str()])
            .current_dir("/")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .map_err(Error::file("start", exe))?;
        let connection = Connection::new(ours);
        Ok(Self { name: name.clone(), connection, child: Some(child) })
    }

    /// Reaches the monitor of a container that runs.
    pub(super) fn connect(container: &Container, socket: &Path) -> Result<Self, Error> {
        let name = container.config.name.clone();
        let stream = UnixStream::connect(socket).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                Error::MonitorGone(name.clone())
            }
            _ => Error::Control { name: name.clone(), source },
        })?;
        Ok(Self { name, connection: Connection::new(stream), child: None })
    }

    /// Sends requests while somebody else waits for events.
    ///
    /// # Errors
    /// [`Error::Control`].
    pub fn sender(&self) -> Result<Sender, Error> {
        self.connection.sender().map_err(control_error(&self.name))
    }

    /// Readable when an event may be there.
    #[must_use]
    pub fn socket(&self) -> std::os::fd::BorrowedFd<'_> {
        self.connection.socket()
    }

    pub(super) fn request(&self, request: &Request) -> Result<(), Error> {
        self.sender()?.send(request).map_err(control_error(&self.name))
    }

    /// Waits for the next event. A failure that the monitor reports is an error here.
    ///
    /// # Errors
    /// [`Error::Monitor`], [`Error::MonitorGone`], [`Error::Control`].
    pub fn event(&mut self) -> Result<Event, Error> {
        match self.connection.receive().map_err(control_error(&self.name))? {
            None => Err(Error::MonitorGone(self.name.clone())),
            Some(Event::Failed { exit_code, message }) => {
                Err(Error::Monitor { exit_code, message })
            }
            Some(event) => Ok(event),
        }
    }

    /// Waits until the process runs. Gives its streams where they were asked for.
    ///
    /// # Errors
    /// As [`Session::event`].
    pub fn started(&mut self) -> Result<ClientStreams, Error> {
        let mut streams = ClientStreams::default();
        loop {
            match self.event()? {
                Event::Streams { stdin, stdout, stderr } => {
                    let mut fds = self.connection.take_fds().into_iter().map(UnixStream::from);
                    let mut take = |there: bool| if there { fds.next() } else { None };
                    streams.stdin = take(stdin);
                    streams.stdout = take(stdout);
                    streams.stderr = take(stderr);
                }
                Event::Started => return Ok(streams),
                Event::Exited { exit_code, error, .. } => {
                    let message = format!("ended before it could be joined: {error}");
                    let exit_code = u8::try_from(exit_code).unwrap_or(EXIT_HUSK);
                    return Err(Error::Monitor { exit_code, message });
                }
                Event::Done
                | Event::Failed { .. }
                | Event::Usage(_)
                | Event::Processes(_)
                | Event::File(_) => {}
            }
        }
    }

    /// Waits for the stream of a copy.
    pub(super) fn stream(&mut self) -> Result<UnixStream, Error> {
        loop {
            if let Event::Streams { .. } = self.event()? {
                let stream = self.connection.take_fds().pop();
                return stream.map(UnixStream::from).ok_or_else(|| Error::Control {
                    name: self.name.clone(),
                    source: io::Error::new(io::ErrorKind::InvalidData, "no stream was handed over"),
                });
            }
        }
    }

    /// Waits until the process has ended.
    ///
    /// # Errors
    /// As [`Session::event`].
    pub fn exited(&mut self) -> Result<Exited, Error> {
        loop {
            if let Event::Exited { exit_code, error, timings } = self.event()? {
                return Ok(Exited { exit_code, error, timings });
            }
        }
    }

    /// Waits until the monitor says that it is done.
    pub(super) fn done(&mut self) -> Result<(), Error> {
        while !matches!(self.event()?, Event::Done) {}
        Ok(())
    }

    /// Waits until the monitor is gone, after its last event.
    pub fn closed(mut self) {
        while let Ok(Some(_)) = self.connection.receive::<Event>() {}
        if let Some(mut child) = self.child.take() {
            // Only its end is of interest; what there was to say came as an event.
            let _ = child.wait();
        }
    }
}

fn control_error(name: &str) -> impl FnOnce(io::Error) -> Error {
    let name = name.to_owned();
    move |source| match source.kind() {
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => Error::MonitorGone(name),
        _ => Error::Control { name, source },
    }
}
