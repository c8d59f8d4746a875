//! What the rest of the host holds of a vsock device: connect, listen, accept. Sends requests to
//! the thread that serves the device and never touches its state.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender, SyncSender, TryRecvError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

/// A request to the thread of the device.
#[derive(Debug)]
pub enum Command {
    /// Connect `stream` to a port of the guest.
    Connect {
        /// Port in the guest.
        guest_port: u32,
        /// The device's end of the stream, which does not block.
        stream: UnixStream,
    },
    /// Take connections of the guest.
    Listen {
        /// Port on the host.
        host_port: u32,
        /// How many of them may wait to be taken; the device refuses the others.
        backlog: usize,
        /// Where the connections go.
        sink: Box<dyn Offers>,
        /// Gets whether the port was free.
        reply: SyncSender<bool>,
    },
    /// One of the connections that wait was taken.
    Taken {
        /// Port on the host.
        host_port: u32,
    },
    /// Take no more connections of the guest.
    Unlisten {
        /// Port on the host.
        host_port: u32,
    },
}

/// The receiving side of a handle, for the thread of the device.
#[derive(Debug)]
pub struct Mailbox {
    commands: Receiver<Command>,
    wake: Arc<EventFd>,
}

impl Mailbox {
    /// A handle and where its requests arrive. The mailbox's descriptor is readable when there is
    /// a request.
    ///
    /// # Errors
    /// Those of eventfd(2).
    pub fn new() -> io::Result<(VsockHandle, Self)> {
        let (sender, commands) = mpsc::channel();
        let wake = Arc::new(event_fd(EfdFlags::empty())?);
        Ok((VsockHandle { commands: sender, wake: wake.clone() }, Self { commands, wake }))
    }

    /// Takes the next request. Does not block.
    pub fn next(&self) -> Option<Command> {
        self.commands.try_recv().ok()
    }

    /// Makes the descriptor unreadable until the next request. To be called before [`Self::next`].
    pub fn clear(&self) {
        // EAGAIN: it already was.
        let _ = self.wake.read();
    }
}

impl AsFd for Mailbox {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}

/// The host's side of a vsock device. Ends with the VM: requests are then refused.
#[derive(Debug, Clone)]
pub struct VsockHandle {
    commands: Sender<Command>,
    wake: Arc<EventFd>,
}

impl VsockHandle {
    /// Connects to a port of the guest, which must be booted. Returns at once with one end of a
    /// blocking stream; bytes may be written before the guest answers, and a guest that refuses
    /// is an end of input. `shutdown(Write)` reaches the guest behind the last byte, and the
    /// guest's does the same here.
    ///
    /// # Errors
    /// `NotConnected` when the VM is gone, and those of socketpair(2).
    pub fn connect(&self, guest_port: u32) -> io::Result<UnixStream> {
        let (stream, device_end) = UnixStream::pair()?;
        device_end.set_nonblocking(true)?;
        self.send(Command::Connect { guest_port, stream: device_end })?;
        Ok(stream)
    }

    /// Lets the guest connect to a port of the host. When it returns, the device knows: a guest
    /// that is told of the port afterwards can connect. Up to `backlog` connections wait for
    /// [`VsockListener::accept`]; the guest's others are refused.
    ///
    /// # Errors
    /// `NotConnected` when the VM is gone, `AddrInUse`, and those of eventfd(2).
    pub fn listen(&self, host_port: u32, backlog: usize) -> io::Result<VsockListener> {
        let (sender, streams) = mpsc::sync_channel(backlog);
        let ready = Arc::new(event_fd(EfdFlags::EFD_SEMAPHORE)?);
        let sink = Box::new(OfferSink { streams: Some(sender), ready: ready.clone() });
        let (reply, answer) = mpsc::sync_channel(1);
        self.send(Command::Listen { host_port, backlog, sink, reply })?;
        match answer.recv() {
            Ok(true) => Ok(VsockListener { host_port, streams, ready, handle: self.clone() }),
            Ok(false) => Err(io::ErrorKind::AddrInUse.into()),
            Err(_) => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    fn send(&self, command: Command) -> io::Result<()> {
        self.commands.send(command).map_err(|_| io::Error::from(io::ErrorKind::NotConnected))?;
        self.wake.write(1)?;
        Ok(())
    }
}

/// Where the device puts the guest's connections to one port.
pub trait Offers: Send + fmt::Debug {
    /// Hands a connection over. False when the backlog is full or nobody listens any more.
    fn offer(&self, stream: UnixStream) -> bool;
}

/// To a listener of this process.
#[derive(Debug)]
struct OfferSink {
    streams: Option<SyncSender<UnixStream>>,
    ready: Arc<EventFd>,
}

impl Offers for OfferSink {
    fn offer(&self, stream: UnixStream) -> bool {
        let taken = self.streams.as_ref().is_some_and(|streams| streams.try_send(stream).is_ok());
        // The count cannot overflow: one per waiting stream.
        taken && self.ready.write(1).is_ok()
    }
}

impl Drop for OfferSink {
    fn drop(&mut self) {
        self.streams = None;
        // Readable for ever: whoever waits learns that there will be no more.
        let _ = self.ready.write(u64::from(u32::MAX));
    }
}

/// A port of the host that the guest may connect to; closed when dropped. Its descriptor is
/// readable when [`Self::accept`] will not block.
#[derive(Debug)]
pub struct VsockListener {
    host_port: u32,
    streams: Receiver<UnixStream>,
    ready: Arc<EventFd>,
    handle: VsockHandle,
}

impl VsockListener {
    /// The port on the host.
    #[must_use]
    pub fn host_port(&self) -> u32 {
        self.host_port
    }

    /// The guest's next connection, a blocking stream. Waits for up to `timeout`, then is
    /// `Ok(None)`.
    ///
    /// # Errors
    /// `ConnectionAborted` when the VM is gone, and those of poll(2) and fcntl(2).
    pub fn accept(&self, timeout: Duration) -> io::Result<Option<UnixStream>> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(stream) = self.try_accept()? {
                return Ok(Some(stream));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            // Rounded up, or the last millisecond would be spent in a busy loop.
            let millis = left.as_millis().saturating_add(1);
            let timeout = PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(self.ready.as_fd(), PollFlags::POLLIN)], timeout) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The guest's next connection if one waits, a blocking stream. Does not wait.
    ///
    /// # Errors
    /// `ConnectionAborted` when the VM is gone, and those of fcntl(2).
    pub fn try_accept(&self) -> io::Result<Option<UnixStream>> {
        match self.streams.try_recv() {
            Ok(stream) => {
                // One count per stream; EAGAIN when the sender has not counted yet is harmless:
                // the descriptor is then readable once in vain.
                let _ = self.ready.read();
                self.take(stream).map(Some)
            }
            Err(TryRecvError::Empty) => {
                let _ = self.ready.read();
                match self.streams.try_recv() {
                    Ok(stream) => self.take(stream).map(Some),
                    Err(TryRecvError::Empty) => Ok(None),
                    Err(TryRecvError::Disconnected) => Err(gone()),
                }
            }
            Err(TryRecvError::Disconnected) => Err(gone()),
        }
    }

    /// Makes room for another connection.
    fn take(&self, stream: UnixStream) -> io::Result<UnixStream> {
        // A VM that is gone has none.
        let _ = self.handle.send(Command::Taken { host_port: self.host_port });
        stream.set_nonblocking(false)?;
        Ok(stream)
    }
}

impl AsFd for VsockListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ready.as_fd()
    }
}

impl Drop for VsockListener {
    fn drop(&mut self) {
        // A VM that is gone listens no more anyway.
        let _ = self.handle.send(Command::Unlisten { host_port: self.host_port });
    }
}

fn gone() -> io::Error {
    io::ErrorKind::ConnectionAborted.into()
}

fn event_fd(flags: EfdFlags) -> io::Result<EventFd> {
    Ok(EventFd::from_flags(flags | EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn listener(
        handle: &VsockHandle,
        mailbox: &Mailbox,
        backlog: usize,
    ) -> (VsockListener, Box<dyn Offers>) {
        std::thread::scope(|scope| {
            let listening = scope.spawn(|| handle.listen(7, backlog).unwrap());
            let sink = loop {
                match mailbox.next() {
                    Some(Command::Listen { host_port: 7, sink, reply, .. }) => {
                        reply.send(true).unwrap();
                        break sink;
                    }
                    Some(other) => panic!("{other:?}"),
                    None => std::thread::yield_now(),
                }
            };
            (listening.join().unwrap(), sink)
        })
    }

    #[test]
    fn accept_waits_no_longer_than_told() {
        let (handle, mailbox) = Mailbox::new().unwrap();
        let (listener, _sink) = listener(&handle, &mailbox, 1);
        assert!(listener.accept(Duration::from_millis(5)).unwrap().is_none());
    }

    #[test]
    fn connections_arrive_in_order_and_a_full_backlog_refuses() {
        let (handle, mailbox) = Mailbox::new().unwrap();
        let (listener, sink) = listener(&handle, &mailbox, 2);
        let pairs: Vec<_> = (0..3).map(|_| UnixStream::pair().unwrap()).collect();
        let mut ends = Vec::new();
        let mut taken = Vec::new();
        for (ours, theirs) in pairs {
            taken.push(sink.offer(theirs));
            ends.push(ours);
        }
        assert_eq!(taken, [true, true, false]);
        drop(ends.remove(0));
        let mut first = listener.accept(Duration::from_secs(60)).unwrap().unwrap();
        assert_eq!(first.read(&mut [0]).unwrap(), 0);
        assert!(listener.try_accept().unwrap().is_some());
        assert!(listener.try_accept().unwrap().is_none());
        // The device learns how many were taken.
        for _ in 0..2 {
            assert!(matches!(mailbox.next(), Some(Command::Taken { host_port: 7 })));
        }
        assert!(mailbox.next().is_none());
    }

    #[test]
    fn listener_of_a_vm_that_is_gone_says_so() {
        let (handle, mailbox) = Mailbox::new().unwrap();
        let (listener, sink) = listener(&handle, &mailbox, 1);
        drop((sink, mailbox));
        let error = listener.accept(Duration::from_secs(60)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
        assert_eq!(handle.connect(1).unwrap_err().kind(), io::ErrorKind::NotConnected);
        assert_eq!(handle.listen(1, 1).unwrap_err().kind(), io::ErrorKind::NotConnected);
    }

    #[test]
    fn dropped_listener_is_reported_to_the_device() {
        let (handle, mailbox) = Mailbox::new().unwrap();
        let (listener, _sink) = listener(&handle, &mailbox, 1);
        drop(listener);
        assert!(matches!(mailbox.next(), Some(Command::Unlisten { host_port: 7 })));
    }
}
