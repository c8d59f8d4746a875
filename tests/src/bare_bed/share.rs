//! File servers for a guest, each in a connection of its own: Debian's virtiofsd, and one of the
//! tests' own that says yes to everything until it fails in a way of the test's choice.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};
use vhost::vhost_user::message::FrontendReq;

use crate::wait::within;

/// Where Debian has it: of QEMU's package, and a package of its own in later releases.
const VIRTIOFSD: [&str; 2] = ["/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd"];
/// VIRTIO_F_VERSION_1, the ring features that the device wants, VHOST_USER_F_PROTOCOL_FEATURES.
const FEATURES: u64 = 1 << 32 | 1 << 30 | 1 << 29 | 1 << 28;
/// VHOST_USER_PROTOCOL_F_REPLY_ACK.
const REPLY_ACK: u64 = 1 << 3;
/// Flags of a message, "Vhost-user Protocol" of the QEMU documentation: version 1, a reply, and a
/// request that wants one.
const REPLY: u32 = 1 | 1 << 2;
const NEED_REPLY: u32 = 1 << 3;
const HEADER_LEN: usize = 12;

/// A folder that the guest finds by its tag.
#[derive(Debug)]
pub struct Share {
    /// The tag.
    pub tag: &'static str,
    /// The VMM's end.
    pub socket: UnixStream,
}

/// A virtiofsd, killed when dropped. It ends by itself when all who have the other end let go.
#[derive(Debug)]
pub struct Virtiofsd {
    child: Child,
}

impl Virtiofsd {
    /// Serves a folder, which no guest can write to if it is `read_only`: for the server, it is
    /// then a mount that nobody writes to.
    ///
    /// # Errors
    /// Why there is none here.
    ///
    /// # Panics
    /// When it is there and does not start.
    pub fn start(folder: &Path, read_only: bool) -> Result<(Self, UnixStream), String> {
        let program = VIRTIOFSD.map(Path::new).into_iter().find(|path| path.exists());
        let program = program.ok_or("virtiofsd is not installed (scripts/setup)")?;
        if !Uid::effective().is_root() {
            return Err("only root starts virtiofsd".into());
        }
        let place = tempfile::tempdir().expect("a folder can be made");
        let listener = UnixListener::bind(place.path().join("socket")).expect("a name is free");
        fcntl(&listener, FcntlArg::F_SETFD(FdFlag::empty())).expect("it stays open");
        let script = if read_only {
            "mount --bind \"$0\" \"$0\" && mount -o remount,bind,ro \"$0\" && exec \"$@\""
        } else {
            "exec \"$@\""
        };
        let child = Command::new("unshare")
            .args(["--mount", "sh", "-c", script])
            .arg(folder)
            .arg(program)
            .arg(format!("--fd={}", listener.as_raw_fd()))
            .args(["-f", "-o", &format!("source={},sandbox=chroot", folder.display())])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("virtiofsd starts");
        let socket = UnixStream::connect(place.path().join("socket")).expect("it listens");
        Ok((Self { child }, socket))
    }

    /// Sends it a signal.
    ///
    /// # Panics
    /// When it is gone.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).expect("a pid fits");
        kill(Pid::from_raw(pid), signal).expect("virtiofsd is there");
    }

    /// Waits for its end.
    pub fn end(&mut self, deadline: Duration) -> Option<ExitStatus> {
        within(deadline, || self.child.try_wait().ok().flatten())
    }
}

impl Drop for Virtiofsd {
    fn drop(&mut self) {
        // It ended, or is to.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a server does in place of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It ends.
    Closes,
    /// It says nothing any more.
    Hangs,
    /// It says no.
    Refuses,
    /// It answers what was not asked.
    Nonsense,
}

/// A server that agrees to everything, touches nothing, and serves no request of the guest.
#[derive(Debug)]
pub struct YesServer {
    socket: UnixStream,
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Shared {
    asked: Mutex<Vec<FrontendReq>>,
    failure: Mutex<Option<(FrontendReq, Fault)>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl YesServer {
    /// One that does not fail yet, and the VMM's end.
    ///
    /// # Panics
    /// When there are no sockets.
    #[must_use]
    pub fn start() -> (Self, UnixStream) {
        let (socket, theirs) = UnixStream::pair().expect("a socket can be made");
        let shared = Arc::<Shared>::default();
        let (mut own, told) = (socket.try_clone().expect("it can be had twice"), shared.clone());
        let thread = std::thread::spawn(move || while answer(&mut own, &told).is_some() {});
        (Self { socket, shared, thread }, theirs)
    }

    /// It fails when it is asked for this the next time.
    pub fn fail_at(&self, request: FrontendReq, fault: Fault) {
        *lock(&self.shared.failure) = Some((request, fault));
    }

    /// What it was asked until now.
    #[must_use]
    pub fn asked(&self) -> Vec<FrontendReq> {
        lock(&self.shared.asked).clone()
    }

    /// What it was asked in all, once everybody has let go of the VMM's end.
    ///
    /// # Panics
    /// When the server did.
    #[must_use]
    pub fn finish(self) -> Vec<FrontendReq> {
        self.thread.join().expect("the server does not panic");
        lock(&self.shared.asked).clone()
    }

    /// It dies.
    ///
    /// # Panics
    /// When the connection has ended before.
    pub fn close(&self) {
        self.socket.shutdown(Shutdown::Both).expect("it is connected");
    }

    /// It says something that nobody asked for.
    ///
    /// # Panics
    /// When the connection has ended before.
    pub fn babble(&self) {
        (&self.socket).write_all(b"babble").expect("it is connected");
    }
}

/// Answers one request. `None` at the end of the connection.
fn answer(socket: &mut UnixStream, shared: &Shared) -> Option<()> {
    let mut header = [0; HEADER_LEN];
    socket.read_exact(&mut header).ok()?;
    let (words, _) = header.as_chunks::<4>();
    let [mut name, flags, len] = [0, 1, 2].map(|at| u32::from_le_bytes(words[at]));
    let mut body = vec![0; usize::try_from(len).ok()?];
    socket.read_exact(&mut body).ok()?;
    let request = FrontendReq::try_from(name).ok()?;
    lock(&shared.asked).push(request);
    let mut reply = match request {
        FrontendReq::GET_FEATURES => FEATURES.to_le_bytes().to_vec(),
        FrontendReq::GET_PROTOCOL_FEATURES => REPLY_ACK.to_le_bytes().to_vec(),
        FrontendReq::GET_VRING_BASE => [body.get(..4)?, &[0; 4]].concat(),
        _ if flags & NEED_REPLY != 0 => vec![0; 8],
        _ => return Some(()),
    };
    let failure = lock(&shared.failure).filter(|(at, _)| *at == request);
    match failure.map(|(_, fault)| fault) {
        Some(Fault::Closes) => {
            // Our other handle on it stays open.
            let _ = socket.shutdown(Shutdown::Both);
            return None;
        }
        // Until the other end has enough of it.
        Some(Fault::Hangs) => return socket.read_to_end(&mut Vec::new()).ok().and(None),
        Some(Fault::Refuses) => reply = vec![0xff; 8],
        Some(Fault::Nonsense) => name += 1,
        None => {}
    }
    let len = u32::try_from(reply.len()).ok()?;
    let header = [name, REPLY, len].map(u32::to_le_bytes).concat();
    socket.write_all(&[header, reply].concat()).ok()
}

/// What a guest's `memory::pattern` is.
#[must_use]
pub fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let word = |offset: u64| {
        (offset + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ seed.wrapping_mul(0xd6e8_feb8_6659_fd93)
    };
    (0..).step_by(8).flat_map(|offset| word(offset).to_le_bytes()).take(len).collect()
}
