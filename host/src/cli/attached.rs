//! The terminal of somebody attached to a process: bytes both ways, signals, window size, detach
//! keys. One thread per stream moves bytes; the main thread waits for events and signals.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::thread;

use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::engine::client::{ClientStreams, Exited, Session};
use crate::engine::control::{Attach, Event, Request, Sender};
use crate::engine::error::Error;
use crate::sys::tty::{RawMode, window_size};

/// How a client takes part in a process's stdio.
#[derive(Debug, Clone)]
pub struct Terms {
    /// The process has a terminal.
    pub terminal: bool,
    /// Feed its stdin.
    pub stdin: bool,
    /// Pass signals on; never with a terminal, where keys do it.
    pub sig_proxy: bool,
    /// What leaves it running; empty for nothing.
    pub detach_keys: Vec<u8>,
}

impl Terms {
    /// The request for these terms.
    pub fn attach(&self) -> Attach {
        let window = if self.terminal { window() } else { None };
        Attach { stdin: self.stdin, output: true, window }
    }

    /// A terminal is wanted, and there is none to give.
    pub fn check_terminal(&self) -> Result<(), String> {
        use std::io::IsTerminal;
        if self.terminal && self.stdin && !io::stdin().is_terminal() {
            return Err("the input device is not a TTY".to_owned());
        }
        Ok(())
    }
}

fn window() -> Option<(u16, u16)> {
    let size = window_size(io::stdout().as_fd()).or_else(|_| window_size(io::stdin().as_fd()));
    size.ok()
        .map(|size| (size.rows, size.columns))
        .filter(|&(rows, columns)| rows > 0 && columns > 0)
}

/// How it ended.
#[derive(Debug)]
pub enum Outcome {
    /// The process has ended.
    Exited(Exited),
    /// The client left; the process runs on.
    Detached,
    /// A signal took the client away from its terminal; the process runs on.
    Interrupted(i32),
}

/// `ctrl-p,ctrl-q` and its like, as bytes.
pub fn parse_detach_keys(text: &str) -> Result<Vec<u8>, String> {
    let bad = || format!("detach keys {text:?}: letters, or ctrl- and one of a-z @ [ \\ ] ^ _");
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let key = |key: &str| match key.strip_prefix("ctrl-").map(str::as_bytes) {
        Some(&[byte @ (b'a'..=b'z')]) => Some(byte - b'a' + 1),
        Some(&[byte @ (b'@' | b'['..=b'_')]) => Some(byte - b'@'),
        Some(_) => None,
        None if key.len() == 1 => Some(key.as_bytes()[0]),
        None => None,
    };
    text.split(',').map(|part| key(part).ok_or_else(bad)).collect()
}

/// Signals that reach this process through a descriptor instead of handlers. Made before any
/// thread exists.
#[derive(Debug)]
pub struct Signals(SignalFd);

impl Signals {
    /// All that can be passed on; docker leaves out SIGCHLD, SIGPIPE and SIGURG.
    pub fn block() -> Result<Self, Error> {
        let left_out = [
            Signal::SIGCHLD,
            Signal::SIGPIPE,
            Signal::SIGURG,
            Signal::SIGKILL,
            Signal::SIGSTOP,
            Signal::SIGSEGV,
            Signal::SIGBUS,
            Signal::SIGILL,
            Signal::SIGFPE,
            Signal::SIGTRAP,
            Signal::SIGABRT,
        ];
        let mut set = SigSet::all();
        left_out.into_iter().for_each(|signal| set.remove(signal));
        let block = || {
            set.thread_block()?;
            SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        };
        block().map(Self).map_err(|errno| Error::File {
            operation: "watch",
            path: "signals".into(),
            source: errno.into(),
        })
    }

    fn next(&self) -> Option<i32> {
        let info = self.0.read_signal().ok().flatten()?;
        i32::try_from(info.ssi_signo).ok()
    }
}

/// What the main thread woke up for.
enum Wake {
    Event(Event),
    Signal(i32),
    Detach,
    /// Nobody reads what is written.
    BrokenPipe,
}

/// What pumps tell the main thread, one byte each.
const DETACHED: u8 = b'd';
const BROKEN_PIPE: u8 = b'p';

/// A client and its session.
pub struct Attachment {
    session: Session,
    signals: Signals,
    terms: Terms,
    detached: (UnixStream, UnixStream),
}

impl Attachment {
    /// Ties a session to this process's stdio.
    pub fn new(session: Session, signals: Signals, terms: Terms) -> Result<Self, Error> {
        let detached = UnixStream::pair().map_err(|source| Error::File {
            operation: "make",
            path: "a socket pair".into(),
            source,
        })?;
        Ok(Self { session, signals, terms, detached })
    }

    fn wake(&mut self) -> Result<Wake, Error> {
        loop {
            if let Some(signal) = self.signals.next() {
                return Ok(Wake::Signal(signal));
            }
            let ready = |fd: &PollFd<'_>| fd.revents().is_some_and(|events| !events.is_empty());
            let (event, detach) = {
                let mut fds = [
                    PollFd::new(self.session.socket(), PollFlags::POLLIN),
                    PollFd::new(self.signals.0.as_fd(), PollFlags::POLLIN),
                    PollFd::new(self.detached.0.as_fd(), PollFlags::POLLIN),
                ];
                match poll(&mut fds, PollTimeout::NONE) {
                    Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                    Err(errno) => {
                        return Err(Error::File {
                            operation: "poll",
                            path: "the session".into(),
                            source: errno.into(),
                        });
                    }
                }
                (ready(&fds[0]), ready(&fds[2]))
            };
            if event {
                return Ok(Wake::Event(self.session.event()?));
            }
            if detach {
                let mut word = [0];
                let told = (&self.detached.0).read_exact(&mut word).is_ok();
                let broken = told && word[0] == BROKEN_PIPE;
                return Ok(if broken { Wake::BrokenPipe } else { Wake::Detach });
            }
        }
    }

    /// Waits until the process runs. A signal before that is the caller's: `Err` with its number.
    pub fn started(&mut self) -> Result<Result<ClientStreams, i32>, Error> {
        // Only the first event is waited for with an eye on signals: after it, the monitor does
        // not make us wait.
        loop {
            if let Some(signal) = self.signals.next() {
                if ends_a_client(signal) {
                    return Ok(Err(signal));
                }
                continue;
            }
            let mut fds = [
                PollFd::new(self.session.socket(), PollFlags::POLLIN),
                PollFd::new(self.signals.0.as_fd(), PollFlags::POLLIN),
            ];
            let ready = poll(&mut fds, PollTimeout::NONE).is_ok()
                && fds[0].revents().is_some_and(|events| !events.is_empty());
            if ready {
                return self.session.started().map(Ok);
            }
        }
    }

    /// Moves bytes and signals until the process has ended or the client leaves.
    pub fn run(mut self, streams: ClientStreams) -> Result<Outcome, Error> {
        let sender = self.session.sender()?;
        let raw = match (self.terms.terminal, self.terms.stdin) {
            (true, true) => RawMode::enter(io::stdin().as_fd()).ok(),
            _ => None,
        };
        let outputs = self.spawn_pumps(streams);
        let outcome = loop {
            match self.wake()? {
                Wake::Event(Event::Exited { exit_code, error, timings }) => {
                    break Outcome::Exited(Exited { exit_code, error, timings });
                }
                Wake::Event(_) => {}
                Wake::Detach => break Outcome::Detached,
                Wake::BrokenPipe => break Outcome::Interrupted(libc::SIGPIPE),
                Wake::Signal(signal) => {
                    if let Some(outcome) = self.on_signal(&sender, signal) {
                        break outcome;
                    }
                }
            }
        };
        if let Outcome::Exited(_) = outcome {
            for output in outputs {
                // A pump does not panic; what it could not write, nobody wanted.
                let _ = output.join();
            }
            drop(raw);
            self.session.closed();
        }
        Ok(outcome)
    }

    fn on_signal(&self, sender: &Sender, signal: i32) -> Option<Outcome> {
        if signal == libc::SIGWINCH {
            if let (true, Some((rows, columns))) = (self.terms.terminal, window()) {
                // A monitor that is gone is noticed by the next event.
                let _ = sender.send(&Request::Resize { rows, columns });
            }
            return None;
        }
        if self.terms.sig_proxy && !self.terms.terminal {
            let _ = sender.send(&Request::Signal(signal));
            return None;
        }
        ends_a_client(signal).then_some(Outcome::Interrupted(signal))
    }

    fn spawn_pumps(&self, streams: ClientStreams) -> Vec<thread::JoinHandle<()>> {
        let ClientStreams { stdin, stdout, stderr } = streams;
        if self.terms.stdin {
            let both_ways = || stdout.as_ref().and_then(|stdout| stdout.try_clone().ok());
            let half_close = stdin.is_some();
            if let Some(to) = stdin.or_else(both_ways) {
                let keys =
                    if self.terms.terminal { self.terms.detach_keys.clone() } else { Vec::new() };
                let detached = self.detached.1.try_clone();
                thread::spawn(move || pump_stdin(to, &keys, half_close, detached.ok()));
            }
        }
        let mut outputs = Vec::new();
        let teller = || self.detached.1.try_clone().ok();
        if let Some(from) = stdout {
            let teller = teller();
            outputs.push(thread::spawn(move || pump_output(from, io::stdout(), teller)));
        }
        if let Some(from) = stderr {
            let teller = teller();
            outputs.push(thread::spawn(move || pump_output(from, io::stderr(), teller)));
        }
        outputs
    }
}

/// Signals that end a client by default.
fn ends_a_client(signal: i32) -> bool {
    matches!(signal, libc::SIGHUP | libc::SIGINT | libc::SIGQUIT | libc::SIGTERM)
}

const CHUNK: usize = 64 << 10;

/// Writes past any buffer of the standard library: a chunk is out when it has arrived. With nobody
/// left to read, the client ends as SIGPIPE ends a program; the container lives on.
fn pump_output(mut from: UnixStream, to: impl AsFd, teller: Option<UnixStream>) {
    let mut buffer = vec![0; CHUNK];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return,
            Ok(count) => {
                if write_all(&to, &buffer[..count]).is_err() {
                    let _ = from.shutdown(Shutdown::Both);
                    tell(teller, BROKEN_PIPE);
                    return;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

fn tell(main_thread: Option<UnixStream>, word: u8) {
    if let Some(mut main_thread) = main_thread {
        // It holds the other end for as long as it lives.
        let _ = main_thread.write_all(&[word]);
    }
}

fn write_all(to: &impl AsFd, mut bytes: &[u8]) -> io::Result<()> {
    use nix::errno::Errno;
    while !bytes.is_empty() {
        match nix::unistd::write(to, bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::EINTR) => {}
            // Standard output that somebody made non-blocking: wait for it.
            Err(Errno::EAGAIN) => {
                poll(&mut [PollFd::new(to.as_fd(), PollFlags::POLLOUT)], PollTimeout::NONE)?;
            }
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

fn read_some(from: &impl AsFd, buffer: &mut [u8]) -> io::Result<usize> {
    use nix::errno::Errno;
    loop {
        match nix::unistd::read(from, buffer) {
            Ok(count) => return Ok(count),
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => {
                poll(&mut [PollFd::new(from.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE)?;
            }
            Err(errno) => return Err(errno.into()),
        }
    }
}

fn pump_stdin(mut to: UnixStream, keys: &[u8], half_close: bool, detached: Option<UnixStream>) {
    let stdin = io::stdin();
    let mut buffer = vec![0; CHUNK];
    let mut matcher = KeyMatcher::new(keys);
    loop {
        let count = read_some(&stdin, &mut buffer).unwrap_or(0);
        if count == 0 {
            break;
        }
        let (bytes, found) = matcher.feed(&buffer[..count]);
        if to.write_all(&bytes).is_err() {
            return;
        }
        if found {
            tell(detached, DETACHED);
            return;
        }
    }
    if half_close {
        // The process's end of input; one that is gone needs none.
        let _ = to.shutdown(Shutdown::Write);
    }
}

/// Finds the detach keys in what is typed, and holds back what may become them.
struct KeyMatcher<'a> {
    keys: &'a [u8],
    matched: usize,
}

impl<'a> KeyMatcher<'a> {
    fn new(keys: &'a [u8]) -> Self {
        Self { keys, matched: 0 }
    }

    /// What to pass on, and whether the keys were all there.
    fn feed(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        if self.keys.is_empty() {
            return (typed.to_vec(), false);
        }
        let mut out = Vec::with_capacity(typed.len());
        for &byte in typed {
            if byte != self.keys[self.matched] {
                out.extend_from_slice(&self.keys[..self.matched]);
                self.matched = 0;
            }
            if byte == self.keys[self.matched] {
                self.matched += 1;
                if self.matched == self.keys.len() {
                    return (out, true);
                }
            } else {
                out.push(byte);
            }
        }
        (out, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detach_keys_are_parsed_as_dockers() {
        assert_eq!(parse_detach_keys("ctrl-p,ctrl-q").unwrap(), [16, 17]);
        assert_eq!(parse_detach_keys("a,ctrl-[").unwrap(), [b'a', 27]);
        assert!(parse_detach_keys("").unwrap().is_empty());
        assert!(parse_detach_keys("ctrl-pp").is_err() && parse_detach_keys("ctrl-").is_err());
    }

    #[test]
    fn keys_are_found_across_reads_and_given_back_when_they_are_not_all_there() {
        let keys = [16, 17];
        let mut matcher = KeyMatcher::new(&keys);
        assert_eq!(matcher.feed(b"ab\x10"), (b"ab".to_vec(), false));
        assert_eq!(matcher.feed(b"c"), (b"\x10c".to_vec(), false));
        assert_eq!(matcher.feed(b"\x10\x10\x11z"), (b"\x10".to_vec(), true));
    }
}
