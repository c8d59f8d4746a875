//! The host's streams of a device: moves bytes between sockets and connections. Owns the sockets;
//! knows no queue. Never blocks: a socket that is full or empty waits for its epoll event.

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

use super::connection::Connection;
use super::handle::{Command, Offers};
use super::muxer::{ConnectionId, Muxer};

/// The most that close(2) may have to throw away: more than a socket holds.
const DISCARD_LIMIT_BYTES: usize = 16 << 20;

#[derive(Debug)]
struct Stream {
    socket: UnixStream,
    readable: bool,
    writable: bool,
    /// The socket was shut down for writing.
    write_ended: bool,
    /// The socket was shut down for reading.
    read_ended: bool,
}

/// The two ends of a stream, neither of which blocks. Whoever gets the other one may change that
/// for itself; the process of this one may have a filter that does not let it.
pub(crate) fn pair() -> io::Result<(UnixStream, UnixStream)> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::Stream, None, flags)?;
    Ok((ours.into(), theirs.into()))
}

/// A port of the host that somebody listens to.
#[derive(Debug)]
struct Listener {
    sink: Box<dyn Offers>,
    backlog: usize,
    /// Connections that were handed over and not taken yet.
    waiting: usize,
}

impl Listener {
    /// Hands a connection over. False when there is no room for it.
    fn offer(&mut self, stream: UnixStream) -> bool {
        let offered = self.waiting < self.backlog && self.sink.offer(stream);
        self.waiting += usize::from(offered);
        offered
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Streams {
    sockets: HashMap<ConnectionId, Stream>,
    listeners: HashMap<u32, Listener>,
}

/// The epoll datum of a connection. Ports of the host are never `u32::MAX`, so datums whose upper
/// half is that are free for others.
#[must_use]
pub fn token(id: ConnectionId) -> u64 {
    u64::from(id.host_port) << 32 | u64::from(id.guest_port)
}

fn id_of(token: u64) -> ConnectionId {
    let [h0, h1, h2, h3, g0, g1, g2, g3] = token.to_be_bytes();
    ConnectionId {
        host_port: u32::from_be_bytes([h0, h1, h2, h3]),
        guest_port: u32::from_be_bytes([g0, g1, g2, g3]),
    }
}

impl Streams {
    /// Number of open sockets.
    #[must_use]
    pub fn len(&self) -> usize {
        self.sockets.len()
    }

    /// Whether no socket is open.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sockets.is_empty()
    }

    /// Does what a [`super::VsockHandle`] asks for.
    pub fn execute(&mut self, muxer: &mut Muxer, epoll: &Epoll, command: Command) {
        match command {
            Command::Connect { guest_port, stream } => match muxer.connect(guest_port) {
                Ok(id) => self.add(muxer, epoll, id, stream),
                // Dropping the stream tells the caller.
                Err(error) => tracing::warn!(%error, "vsock connection refused"),
            },
            Command::Listen { host_port, backlog, sink, reply } => {
                let free = muxer.listen(host_port);
                if free {
                    self.listeners.insert(host_port, Listener { sink, backlog, waiting: 0 });
                }
                if reply.send(free).is_err() {
                    self.unlisten(muxer, host_port);
                }
            }
            Command::Taken { host_port } => {
                if let Some(listener) = self.listeners.get_mut(&host_port) {
                    listener.waiting = listener.waiting.saturating_sub(1);
                }
            }
            Command::Unlisten { host_port } => self.unlisten(muxer, host_port),
        }
    }

    fn unlisten(&mut self, muxer: &mut Muxer, host_port: u32) {
        muxer.unlisten(host_port);
        self.listeners.remove(&host_port);
    }

    /// Hands the connections that the guest asks for to who listens, and moves bytes of every
    /// connection that changed until nothing can move.
    pub fn serve(&mut self, muxer: &mut Muxer, epoll: &Epoll) {
        while let Some(id) = muxer.next_offer() {
            self.accept(muxer, epoll, id);
        }
        while let Some(id) = muxer.next_changed() {
            self.pump(muxer, id);
        }
    }

    /// Notes an epoll event and moves what it lets move.
    pub fn on_event(&mut self, muxer: &mut Muxer, event: EpollEvent) {
        let id = id_of(event.data());
        let Some(stream) = self.sockets.get_mut(&id) else { return };
        let flags = event.events();
        let hung_up = flags.intersects(EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR);
        stream.readable |=
            hung_up || flags.intersects(EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP);
        stream.writable |= hung_up || flags.contains(EpollFlags::EPOLLOUT);
        if hung_up {
            muxer.update(id, Connection::host_is_deaf);
        }
        self.pump(muxer, id);
    }

    /// The guest was reset, or is gone: every stream ends.
    pub fn close_all(&mut self) {
        for (_, stream) in self.sockets.drain() {
            stream.close();
        }
    }

    fn accept(&mut self, muxer: &mut Muxer, epoll: &Epoll, id: ConnectionId) {
        if muxer.update(id, Connection::accept) != Some(true) {
            return;
        }
        let Some(listener) = self.listeners.get_mut(&id.host_port) else {
            muxer.update(id, Connection::abort);
            return;
        };
        let offered = pair().map(|(ours, theirs)| listener.offer(theirs).then_some(ours));
        match offered {
            Ok(Some(ours)) => self.add(muxer, epoll, id, ours),
            Ok(None) => {
                muxer.update(id, Connection::abort);
            }
            Err(error) => {
                tracing::warn!(%error, port = id.host_port, "vsock connection not accepted");
                muxer.update(id, Connection::abort);
            }
        }
    }

    fn add(&mut self, muxer: &mut Muxer, epoll: &Epoll, id: ConnectionId, socket: UnixStream) {
        let interest = EpollFlags::EPOLLIN
            | EpollFlags::EPOLLOUT
            | EpollFlags::EPOLLRDHUP
            | EpollFlags::EPOLLET;
        if let Err(error) = epoll.add(socket.as_fd(), EpollEvent::new(interest, token(id))) {
            tracing::warn!(%error, "vsock stream not served");
            muxer.update(id, Connection::abort);
            muxer.forget_if_over(id);
            return;
        }
        // The first event of an edge-triggered descriptor tells the state at hand.
        let stream = Stream {
            socket,
            readable: false,
            writable: false,
            write_ended: false,
            read_ended: false,
        };
        self.sockets.insert(id, stream);
    }

    /// Moves bytes both ways until the socket or the connection can take no more.
    fn pump(&mut self, muxer: &mut Muxer, id: ConnectionId) {
        if let Some(stream) = self.sockets.get_mut(&id) {
            let over = muxer.update(id, |connection| {
                stream.read(connection);
                stream.write(connection);
                stream.shut_down(connection);
                connection.is_over_for_host()
            });
            // A connection that the muxer does not know is over, too.
            if over != Some(false)
                && let Some(stream) = self.sockets.remove(&id)
            {
                stream.close();
            }
        }
        muxer.forget_if_over(id);
    }
}

impl Stream {
    fn read(&mut self, connection: &mut Connection) {
        while self.readable && connection.wants_host_input() {
            match connection.read_host(&mut self.socket) {
                Ok(0) => self.readable = false,
                Ok(_) => {}
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => self.readable = false,
                    ErrorKind::Interrupted => {}
                    _ => {
                        self.readable = false;
                        connection.host_ended();
                    }
                },
            }
        }
    }

    fn write(&mut self, connection: &mut Connection) {
        while self.writable && connection.pending_host_output() > 0 {
            match connection.write_host(&mut self.socket) {
                Ok(_) => {}
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => self.writable = false,
                    ErrorKind::Interrupted => {}
                    _ => connection.host_is_deaf(),
                },
            }
        }
    }

    /// Passes on what the guest ended. Errors are those of a socket that already is.
    fn shut_down(&mut self, connection: &mut Connection) {
        if !self.write_ended && connection.host_output_ended() {
            self.write_ended = true;
            let _ = self.socket.shutdown(Shutdown::Write);
        }
        if !self.read_ended && connection.guest_is_deaf() {
            self.read_ended = true;
            let _ = self.socket.shutdown(Shutdown::Read);
        }
    }

    /// Closes the socket so that the host reads what was written and then an end. Bytes of the
    /// host that were never read would turn that end into ECONNRESET, unix(7): they are read here.
    fn close(mut self) {
        let _ = self.socket.shutdown(Shutdown::Both);
        let mut scratch = [0; 4096];
        let mut left = DISCARD_LIMIT_BYTES;
        while left > 0 {
            match self.socket.read(&mut scratch) {
                Ok(count) if count > 0 => left = left.saturating_sub(count),
                _ => break,
            }
        }
    }
}

#[cfg(test)]
mod tests;
