//! Tests: host sockets that connections end in.

use std::io::Write;
use std::sync::mpsc;
use std::time::Duration;

use nix::sys::epoll::{EpollCreateFlags, EpollTimeout};

use super::*;
use crate::vsock::handle::{Mailbox, VsockHandle, VsockListener};
use crate::vsock::packet::{Header, Op, SHUTDOWN_BOTH, SHUTDOWN_SEND};
use crate::vsock::testing::{Bench, CONFIG, data, header};

const SERVICE: u32 = 1024;

/// A device whose host side is real and whose guest is the test.
struct Host {
    bench: Bench,
    streams: Streams,
    epoll: Epoll,
    mailbox: Mailbox,
    handle: VsockHandle,
}

impl Host {
    fn new() -> Self {
        let (handle, mailbox) = Mailbox::new().unwrap();
        Self {
            bench: Bench::new(),
            streams: Streams::default(),
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap(),
            mailbox,
            handle,
        }
    }

    /// Lets everything happen that can happen by now.
    fn settle(&mut self) {
        while let Some(command) = self.mailbox.next() {
            self.streams.execute(&mut self.bench.muxer, &self.epoll, command);
        }
        let mut events = [EpollEvent::empty(); 64];
        let count = self.epoll.wait(&mut events, EpollTimeout::ZERO).unwrap();
        for event in &events[..count] {
            self.streams.on_event(&mut self.bench.muxer, *event);
        }
        self.streams.serve(&mut self.bench.muxer, &self.epoll);
    }

    fn listen(&mut self, backlog: usize) -> VsockListener {
        let handle = self.handle.clone();
        let (sender, listener) = mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(move || sender.send(handle.listen(SERVICE, backlog).unwrap()).unwrap());
            loop {
                self.settle();
                match listener.recv_timeout(Duration::from_millis(1)) {
                    Ok(listener) => break listener,
                    Err(mpsc::RecvTimeoutError::Timeout) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        })
    }

    fn send(&mut self, header: &Header, payload: &[u8]) {
        self.bench.send_as(header, payload);
        self.settle();
    }

    fn receive(&mut self) -> Option<(Op, u32, Vec<u8>)> {
        self.settle();
        let (header, payload) = self.bench.receive()?;
        self.settle();
        Some((Op::from_wire(header.op).unwrap(), header.flags, payload))
    }

    /// A stream that the guest's port 7 answered, and its port on the host.
    fn connect(&mut self) -> (UnixStream, u32) {
        let stream = self.handle.connect(7).unwrap();
        self.settle();
        let (request, _) = self.bench.receive().unwrap();
        assert_eq!(request.op, Op::Request.to_wire());
        self.send(&header(Op::Response, 7, request.src_port), &[]);
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        (stream, request.src_port)
    }
}

fn read_all(mut stream: &UnixStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    bytes
}

#[test]
fn stream_of_the_host_carries_bytes_both_ways() {
    let mut host = Host::new();
    let (mut stream, port) = host.connect();
    stream.write_all(b"hello").unwrap();
    assert_eq!(host.receive(), Some((Op::Data, 0, b"hello".to_vec())));
    host.send(&data(7, port, 5), b"world");
    let mut answer = [0; 5];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"world");
}

#[test]
fn refused_stream_ends() {
    let mut host = Host::new();
    let stream = host.handle.connect(7).unwrap();
    (&stream).write_all(b"early").unwrap();
    host.settle();
    let (request, _) = host.bench.receive().unwrap();
    host.send(&header(Op::Reset, 7, request.src_port), &[]);
    assert_eq!(read_all(&stream), b"");
    assert!(host.bench.muxer.is_empty() && host.streams.is_empty());
}

#[test]
fn guest_is_accepted_and_a_full_backlog_refused() {
    let mut host = Host::new();
    let listener = host.listen(1);
    host.send(&header(Op::Request, 7, SERVICE), &[]);
    assert_eq!(host.receive().unwrap().0, Op::Response);
    host.send(&header(Op::Request, 8, SERVICE), &[]);
    assert_eq!(host.receive().unwrap().0, Op::Reset);
    host.send(&data(7, SERVICE, 2), b"up");
    let mut stream = listener.accept(Duration::from_secs(60)).unwrap().unwrap();
    let mut word = [0; 2];
    stream.read_exact(&mut word).unwrap();
    assert_eq!(&word, b"up");
    host.send(&header(Op::Request, 8, SERVICE), &[]);
    assert_eq!(host.receive().unwrap().0, Op::Response);
    drop(listener);
    host.settle();
    host.send(&header(Op::Request, 9, SERVICE), &[]);
    assert_eq!(host.receive().unwrap().0, Op::Reset);
}

#[test]
fn half_closes_pass_in_both_directions() {
    let mut host = Host::new();
    let (mut stream, port) = host.connect();
    stream.write_all(b"question").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(host.receive().unwrap().2, b"question");
    assert_eq!(host.receive(), Some((Op::Shutdown, SHUTDOWN_SEND, vec![])));
    host.send(&data(7, port, 6), b"answer");
    let end = Header { flags: SHUTDOWN_SEND, ..header(Op::Shutdown, 7, port) };
    host.send(&end, &[]);
    assert_eq!(read_all(&stream), b"answer");
    drop(stream);
    assert_eq!(host.receive().unwrap().0, Op::Reset);
    assert!(host.bench.muxer.is_empty() && host.streams.is_empty());
}

#[test]
fn host_that_closes_has_its_last_bytes_delivered() {
    let mut host = Host::new();
    let (mut stream, _) = host.connect();
    stream.write_all(b"last").unwrap();
    drop(stream);
    let mut ops = Vec::new();
    while let Some((op, _, payload)) = host.receive() {
        ops.push(op);
        assert!(op != Op::Data || payload == b"last");
    }
    assert_eq!(ops.first(), Some(&Op::Data));
    assert_eq!(ops.last(), Some(&Op::Reset));
    assert!(host.bench.muxer.is_empty() && host.streams.is_empty());
}

#[test]
fn guest_that_closes_ends_the_stream_without_an_error() {
    let mut host = Host::new();
    let (mut stream, port) = host.connect();
    host.send(&data(7, port, 4), b"last");
    // Unread by the guest: must not turn the host's end of input into an error.
    stream.write_all(b"for nobody").unwrap();
    let close = Header { flags: SHUTDOWN_BOTH, ..header(Op::Shutdown, 7, port) };
    host.send(&close, &[]);
    assert_eq!(read_all(&stream), b"last");
    assert_eq!(host.receive().unwrap().0, Op::Reset);
    assert!(stream.write_all(b"x").is_err());
    assert!(host.bench.muxer.is_empty());
}

#[test]
fn reset_after_unread_bytes_delivers_them() {
    let mut host = Host::new();
    let (stream, port) = host.connect();
    host.send(&data(7, port, 4), b"last");
    host.send(&header(Op::Reset, 7, port), &[]);
    assert_eq!(read_all(&stream), b"last");
    assert!(host.bench.muxer.is_empty() && host.streams.is_empty());
}

#[test]
fn host_that_does_not_read_holds_the_guest_back_and_loses_nothing() {
    let mut host = Host::new();
    let (stream, port) = host.connect();
    let part = vec![7; CONFIG.limits.buffer_bytes as usize / 4];
    let mut sent = 0;
    let mut credit = i64::from(CONFIG.limits.buffer_bytes);
    let mut told = 0i64;
    // As a guest that respects its credit, until none comes.
    loop {
        while credit - (sent - told) >= part.len() as i64 {
            host.send(&data(7, port, part.len()), &part);
            sent += part.len() as i64;
        }
        host.settle();
        let Some((header, _)) = host.bench.receive() else { break };
        (credit, told) = (i64::from(header.buf_alloc), i64::from(header.fwd_cnt));
    }
    assert!(sent > credit, "the socket took some");
    stream.shutdown(Shutdown::Write).unwrap();
    let end = Header { flags: SHUTDOWN_BOTH, ..header(Op::Shutdown, 7, port) };
    host.send(&end, &[]);
    let reader = std::thread::spawn(move || read_all(&stream).len());
    while !reader.is_finished() {
        host.settle();
    }
    assert_eq!(reader.join().unwrap() as i64, sent);
}

#[test]
fn gone_guest_ends_every_stream() {
    let mut host = Host::new();
    let (mut stream, _) = host.connect();
    stream.write_all(b"for nobody").unwrap();
    host.streams.close_all();
    assert_eq!(read_all(&stream), b"");
}

#[test]
fn connection_beyond_the_limit_ends_at_once() {
    let mut host = Host::new();
    let streams: Vec<_> =
        (0..=CONFIG.limits.connections).map(|_| host.handle.connect(7).unwrap()).collect();
    host.settle();
    assert_eq!(host.bench.muxer.len(), CONFIG.limits.connections);
    assert_eq!(read_all(streams.last().unwrap()), b"");
}

#[test]
fn tokens_name_their_connections() {
    let id = ConnectionId { host_port: 0x8000_0001, guest_port: 0x0203_0405 };
    assert_eq!(id_of(token(id)), id);
}
