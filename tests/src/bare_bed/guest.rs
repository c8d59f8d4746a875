//! A guest that runs, and how it ended.

use std::fs::{File, Permissions};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use husk::sys::process::spawn_bound;
use husk_vmm::channel::Channel;
use husk_vmm::control::{Client, Event, Request, Statistics};
use husk_vmm::process::{COMMAND, EXIT_REFUSED};
use husk_vmm::vsock::{VsockHandle, relay};
use nix::errno::Errno;
use nix::unistd::{Whence, lseek};
use tempfile::TempDir;

use super::serial::Serial;
use super::setup::{Setup, Wires};
use crate::wait::within;

/// A VMM that lives answers at once, as soon as it has a processor.
const ANSWER: Duration = Duration::from_secs(60);
/// What is shown of a guest that fails.
const TAIL: usize = 3000;
/// What the guest says at its end.
const PASSED: &str = "PASSED\n";

/// A machine with a guest in it, killed when dropped. Its VMM also dies with the thread that
/// started it.
pub struct Guest {
    case: String,
    child: Child,
    began: Instant,
    serial: Serial,
    console: Serial,
    control: Option<Client>,
    streams: Option<VsockHandle>,
    events: Arc<Mutex<Vec<Event>>>,
    _program: Option<TempDir>,
}

/// What is left of a guest.
#[derive(Debug)]
pub struct Ended {
    /// The case.
    pub case: String,
    /// All that it wrote to its serial port.
    pub serial: String,
    /// And to its virtio console.
    pub console: String,
    /// Of the VMM's process; `None` when it had to be killed.
    pub status: Option<ExitStatus>,
    /// What the VMM had to say.
    pub stderr: String,
    /// What happened, in its order.
    pub events: Vec<Event>,
    /// From the start of the VMM's process, fork and exec, to the guest's first byte.
    pub first_byte: Option<Duration>,
}

/// husk, the program that is the VMM: `HUSK_BIN`, or what `make build` left.
fn program() -> PathBuf {
    let built = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../build/bin/husk");
    let path = std::env::var_os("HUSK_BIN").map_or_else(built, PathBuf::from);
    assert!(path.is_file(), "husk is not in {} (make build, or set HUSK_BIN)", path.display());
    path
}

/// A copy where any user finds it, for as long as the folder is there.
fn copy(program: &Path) -> io::Result<TempDir> {
    let folder = tempfile::tempdir()?;
    // By a process of its own: a program that a child of another thread still has open for writing
    // cannot be run.
    let status = Command::new("cp").arg(program).arg(folder.path().join("husk")).status()?;
    if !status.success() {
        return Err(io::Error::other("copy husk"));
    }
    for path in [folder.path(), &folder.path().join("husk")] {
        std::fs::set_permissions(path, Permissions::from_mode(0o755))?;
    }
    Ok(folder)
}

/// The end of what a guest said.
fn tail(text: &str) -> &str {
    let from = text.len().saturating_sub(TAIL);
    let from = (from..=text.len()).find(|at| text.is_char_boundary(*at));
    &text[from.unwrap_or(0)..]
}

impl Guest {
    /// Starts a machine.
    ///
    /// # Panics
    /// When something that it needs is not there, with what and how to get it.
    ///
    /// # Errors
    /// Of the host.
    pub fn start(setup: &Setup, kvm: File) -> io::Result<Self> {
        let files = setup.open(kvm)?;
        let (control, streams) = (Channel::pair()?, Channel::pair()?);
        let (serial, console) = (io::pipe()?, io::pipe()?);
        let wires = Wires {
            control: control.1.as_fd(),
            serial: serial.1.as_fd(),
            console: console.1.as_fd(),
            streams: streams.1.as_fd(),
        };
        let config = setup.config(&files, &wires);
        let reachable = setup.user.map(|_| copy(&program())).transpose()?;
        let copied = reachable.as_ref().map(|folder| folder.path().join("husk"));
        let mut command = Command::new(copied.unwrap_or_else(program));
        if let Some(user) = setup.user {
            command.uid(user).gid(user);
        }
        // A pipe holds it all: so the VMM waits for nobody, and what it takes is its own.
        let mut pipe = io::pipe()?;
        pipe.1.write_all(&serde_json::to_vec(&config)?)?;
        drop(pipe.1);
        command.arg(COMMAND).env_clear().stdin(pipe.0).stdout(Stdio::null());
        command.stderr(Stdio::piped());
        let began = Instant::now();
        let child = spawn_bound(&mut command, &setup.keep(&files, &wires))?;
        drop((control.1, streams.1, serial.1, console.1));
        let events = Arc::new(Mutex::new(Vec::new()));
        let heard = events.clone();
        let listen = move |event: Option<Event>| {
            heard.lock().unwrap_or_else(PoisonError::into_inner).extend(event);
        };
        Ok(Self {
            case: setup.case.clone(),
            child,
            began,
            serial: Serial::read(serial.0),
            console: Serial::read(console.0),
            control: Some(Client::start(control.0, listen)?),
            streams: if setup.vsock { Some(relay::serve(streams.0)?) } else { None },
            events,
            _program: reachable,
        })
    }

    /// Waits for something on the serial port.
    ///
    /// # Panics
    /// When it does not come, with what came.
    pub fn expect(&self, wanted: &str, deadline: Duration) {
        let came = self.serial.wait_for(wanted, deadline);
        let said = self.said();
        assert!(
            came,
            "{}: not within {deadline:?}: {wanted:?} in {} bytes\n{}",
            self.case,
            said.len(),
            tail(&said)
        );
    }

    /// What it wrote to its serial port until now.
    #[must_use]
    pub fn said(&self) -> String {
        self.serial.text()
    }

    /// The VMM's process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The guest's byte streams.
    ///
    /// # Panics
    /// Without a vsock device.
    #[must_use]
    pub fn vsock(&self) -> &VsockHandle {
        self.streams.as_ref().expect("the machine has a vsock device")
    }

    /// Asks the VMM for something that it must do.
    ///
    /// # Panics
    /// When it does not.
    pub fn command(&self, request: Request) {
        let shown = format!("{request:?}");
        if let Err(error) = self.control().command(request, ANSWER) {
            panic!("{}: {shown}: {error}\n{}", self.case, tail(&self.said()));
        }
    }

    /// Who asks the VMM.
    ///
    /// # Panics
    /// After [`Self::desert`].
    #[must_use]
    pub fn control(&self) -> &Client {
        self.control.as_ref().expect("the control socket is open")
    }

    /// Closes the control socket, as the end of a monitor does.
    pub fn desert(&mut self) {
        self.control = None;
    }

    /// The VMM's numbers.
    ///
    /// # Panics
    /// When it does not tell.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        match self.control().statistics(ANSWER) {
            Ok(statistics) => statistics,
            Err(error) => panic!("{}: statistics: {error}\n{}", self.case, tail(&self.said())),
        }
    }

    /// What the host has given of the guest's memory from `from_mib` of its file on, whoever of the
    /// host's processes took it. memfd_create(2), lseek(2).
    ///
    /// # Panics
    /// When the VMM's process cannot be looked at, which root can.
    #[must_use]
    pub fn host_kib(&self, from_mib: u32) -> u64 {
        let kib =
            guest_memory(self.pid()).and_then(|file| data_len(&file, from_mib)).map(|n| n >> 10);
        kib.unwrap_or_else(|error| panic!("{}: the guest's memory: {error}", self.case))
    }

    /// All of the guest's memory, as the host has it.
    ///
    /// # Panics
    /// As [`Self::host_kib`].
    #[must_use]
    pub fn memory(&self) -> Vec<u8> {
        let read = |mut file: File| {
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes).map(|_| bytes)
        };
        let memory = guest_memory(self.pid()).and_then(read);
        memory.unwrap_or_else(|error| panic!("{}: the guest's memory: {error}", self.case))
    }

    /// A number of a device, 0 if it has none of this name.
    #[must_use]
    pub fn counter(&self, kind: &str, name: &str) -> u64 {
        let statistics = self.statistics();
        let of_kind = |device: &&husk_vmm::control::DeviceStatistics| device.kind == kind;
        let mut devices = statistics.devices.iter().filter(of_kind);
        devices.find_map(|device| device.counters.get(name)).copied().unwrap_or(0)
    }

    /// Waits for the end of the VMM's process, which is killed when the time is up.
    pub fn finish(mut self, deadline: Duration) -> Ended {
        let status = within(deadline, || self.child.try_wait().ok().flatten());
        if status.is_none() {
            // Gone or not, the pipes end below.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        let mut stderr = String::new();
        if let Some(mut pipe) = self.child.stderr.take() {
            // What was read is what there is.
            let _ = pipe.read_to_string(&mut stderr);
        }
        let serial = self.serial.finish();
        let first = self.serial.first();
        let heard = || self.events.lock().unwrap_or_else(PoisonError::into_inner).clone();
        // The reader of the socket may be behind the end of the process.
        let refused = status.and_then(|status| status.code()) == Some(EXIT_REFUSED.into());
        if status.is_some() && !refused && self.control.is_some() {
            within(ANSWER, || matches!(heard().last(), Some(Event::Ended { .. })).then_some(()));
        }
        Ended {
            case: self.case.clone(),
            serial,
            console: self.console.finish(),
            status,
            stderr,
            events: heard(),
            first_byte: first.map(|first| first.saturating_duration_since(self.began)),
        }
    }
}

/// The file that a VMM has for its guest's memory.
fn guest_memory(vmm: u32) -> io::Result<File> {
    for descriptor in std::fs::read_dir(format!("/proc/{vmm}/fd"))? {
        let path = descriptor?.path();
        if std::fs::read_link(&path)?.as_os_str().as_bytes().starts_with(b"/memfd:guest-memory") {
            return File::open(path);
        }
    }
    Err(io::ErrorKind::NotFound.into())
}

/// Bytes of pages that are there.
fn data_len(file: &File, from_mib: u32) -> io::Result<u64> {
    let seek = |at: i64, whence| match lseek(file, at, whence) {
        // There are no more pages.
        Err(Errno::ENXIO) => Ok(None),
        other => Ok::<_, io::Error>(Some(other?)),
    };
    let (mut at, mut len) = (i64::from(from_mib) << 20, 0);
    while let Some(start) = seek(at, Whence::SeekData)? {
        let Some(end) = seek(start, Whence::SeekHole)? else { break };
        len += end - start;
        at = end;
    }
    u64::try_from(len).map_err(io::Error::other)
}

impl Drop for Guest {
    fn drop(&mut self) {
        // It ended, or is to.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Ended {
    /// The guest says that it passed, and its reset ended the VMM with success.
    ///
    /// # Panics
    /// Otherwise, with everything that there is.
    pub fn expect_passed(&self) {
        let success = self.status.is_some_and(|status| status.success());
        assert!(success && self.serial.ends_with(PASSED), "{self}");
    }

    /// Lines of the serial port that begin with these words, without them.
    #[must_use]
    pub fn values(&self, words: &str) -> Vec<&str> {
        let lines = self.serial.lines();
        lines.filter_map(|line| line.strip_prefix(words)).map(str::trim).collect()
    }
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { case, serial, status, stderr, events, .. } = self;
        let tail = tail(serial);
        write!(f, "{case}: {status:?}, {stderr:?}, {events:?}, serial port:\n{tail}")
    }
}
