//! The monitor's end of the control socket: asks, and hears of events. A thread reads, so that
//! events are heard while nobody asks.

use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::message::{Call, Event, Message, Reply, Request, Statistics};
use crate::channel::{Channel, ChannelError, Received};

/// Why a request was not done, or is not known to be.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The VMM is gone.
    #[error("the VMM is gone")]
    Gone,
    /// No answer came in time.
    #[error("the VMM does not answer")]
    Silent,
    /// The VMM will not.
    #[error("the VMM refuses: {reason}")]
    Refused {
        /// Its words.
        reason: String,
    },
    /// An answer to another question.
    #[error("the VMM answers what was not asked")]
    Answer,
    /// The socket.
    #[error("ask the VMM")]
    Channel(#[from] ChannelError),
}

/// See the module. When it is dropped, the VMM ends.
pub struct Client {
    channel: Arc<Channel>,
    replies: Mutex<Receiver<(u64, Reply)>>,
    /// The number of the call whose answer is awaited; 0 for none.
    awaited: Arc<AtomicU64>,
    next_id: AtomicU64,
    reader: Option<JoinHandle<()>>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("channel", &self.channel).finish_non_exhaustive()
    }
}

impl Client {
    /// Talks over one end of a socket. `on_event` hears each event, and at last `None`, when the
    /// VMM says no more. It runs in a thread of the client, and must not ask.
    ///
    /// # Errors
    /// Those of a thread's start.
    pub fn start(
        channel: Channel,
        mut on_event: impl FnMut(Option<Event>) + Send + 'static,
    ) -> io::Result<Self> {
        let channel = Arc::new(channel);
        let (sender, replies) = mpsc::channel();
        let awaited = Arc::new(AtomicU64::new(0));
        let (shared, answers) = (channel.clone(), Answers { sender, awaited: awaited.clone() });
        let read = move || {
            if let Err(error) = read(&shared, &answers, &mut on_event) {
                tracing::warn!(error = &error as &dyn std::error::Error, "VMM not understood");
            }
            // A VMM that makes no sense is not to go on.
            shared.close();
            // Who asks learns that it is gone.
            drop(answers);
            on_event(None);
        };
        let reader = std::thread::Builder::new().name("vmm-control".into()).spawn(read)?;
        Ok(Self {
            channel,
            replies: Mutex::new(replies),
            awaited,
            next_id: AtomicU64::new(1),
            reader: Some(reader),
        })
    }

    /// Asks, and waits for the answer. One asks at a time.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn ask(&self, request: Request, timeout: Duration) -> Result<Reply, ClientError> {
        let replies = self.replies.lock().unwrap_or_else(PoisonError::into_inner);
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let deadline = Instant::now() + timeout;
        self.awaited.store(id, Ordering::SeqCst);
        self.send(&Call { id, request }, deadline)?;
        loop {
            match replies.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok((of, Reply::Refused { reason })) if of == id => {
                    return Err(ClientError::Refused { reason });
                }
                Ok((of, reply)) if of == id => return Ok(reply),
                // Of somebody who did not wait for it.
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => return Err(ClientError::Silent),
                Err(RecvTimeoutError::Disconnected) => return Err(ClientError::Gone),
            }
        }
    }

    /// Asks for what has no answer but that it is done.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn command(&self, request: Request, timeout: Duration) -> Result<(), ClientError> {
        match self.ask(request, timeout)? {
            Reply::Done => Ok(()),
            _ => Err(ClientError::Answer),
        }
    }

    /// Asks for numbers.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn statistics(&self, timeout: Duration) -> Result<Statistics, ClientError> {
        match self.ask(Request::Statistics, timeout)? {
            Reply::Statistics(statistics) => Ok(*statistics),
            _ => Err(ClientError::Answer),
        }
    }

    fn send(&self, call: &Call, deadline: Instant) -> Result<(), ClientError> {
        loop {
            match self.channel.send(call, None) {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(ChannelError::Send(_)) => return Err(ClientError::Gone),
                Err(error) => return Err(error.into()),
            }
            if Instant::now() >= deadline {
                return Err(ClientError::Silent);
            }
            wait(&self.channel, PollFlags::POLLOUT, PollTimeout::from(10_u8));
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.channel.close();
        if let Some(reader) = self.reader.take() {
            // One that panicked has said so on standard error.
            let _ = reader.join();
        }
    }
}

/// Where the answer goes that somebody waits for.
struct Answers {
    sender: Sender<(u64, Reply)>,
    awaited: Arc<AtomicU64>,
}

impl Answers {
    /// One for each call: the others are of a VMM that makes them up, and fill nothing.
    fn take(&self, id: u64, reply: Reply) {
        let awaited = self.awaited.compare_exchange(id, 0, Ordering::SeqCst, Ordering::SeqCst);
        if id != 0 && awaited.is_ok() {
            // Nobody asks any more: the client is being dropped.
            let _ = self.sender.send((id, reply));
        }
    }
}

fn read(
    channel: &Channel,
    answers: &Answers,
    on_event: &mut impl FnMut(Option<Event>),
) -> Result<(), ChannelError> {
    loop {
        match channel.receive()? {
            Received::Message(_, Some(_)) | Received::Stripped(_) => {
                return Err(ChannelError::Descriptors { count: 1 });
            }
            Received::Message(Message::Event(event), None) => on_event(Some(event)),
            Received::Message(Message::Reply { id, reply }, None) => answers.take(id, reply),
            Received::Nothing => wait(channel, PollFlags::POLLIN, PollTimeout::NONE),
            Received::End => return Ok(()),
        }
    }
}

/// Returns in vain when interrupted.
fn wait(channel: &Channel, what: PollFlags, timeout: PollTimeout) {
    match poll(&mut [PollFd::new(channel.as_fd(), what)], timeout) {
        Ok(_) | Err(Errno::EINTR) => {}
        // No memory, for one: another try later.
        Err(_) => std::thread::sleep(Duration::from_millis(10)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::server::{ControlError, Server};
    use super::*;

    const SOON: Duration = Duration::from_secs(60);

    fn pair() -> (Client, Server, Receiver<Option<Event>>) {
        let (ours, theirs) = Channel::pair().unwrap();
        let (sender, events) = mpsc::channel();
        let client = Client::start(ours, move |event| sender.send(event).unwrap()).unwrap();
        (client, Server::new(theirs), events)
    }

    fn next(server: &mut Server) -> Result<Call, ControlError> {
        loop {
            if let Some(call) = server.receive()? {
                return Ok(call);
            }
            std::thread::yield_now();
        }
    }

    #[test]
    fn answers_find_their_questions_among_events_and_late_answers() {
        let (client, mut server, events) = pair();
        let error = client.command(Request::Pause, Duration::from_millis(5)).unwrap_err();
        assert!(matches!(error, ClientError::Silent));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let late = next(&mut server).unwrap();
                let call = next(&mut server).unwrap();
                assert_eq!((&late.request, &call.request), (&Request::Pause, &Request::Statistics));
                server.tell(Event::DriverReady).unwrap();
                server.reply(late.id, Reply::Done).unwrap();
                let statistics = Statistics { uptime_ms: 3, ..Statistics::default() };
                server.reply(call.id, Reply::Statistics(Box::new(statistics))).unwrap();
            });
            assert_eq!(client.statistics(SOON).unwrap().uptime_ms, 3);
        });
        assert_eq!(events.recv().unwrap(), Some(Event::DriverReady));
    }

    #[test]
    fn answers_that_nobody_awaits_are_not_kept() {
        let (client, mut server, events) = pair();
        for id in 0..1000 {
            while server.is_waiting() {
                server.flush().unwrap();
            }
            server.reply(id, Reply::Done).unwrap();
        }
        while server.is_waiting() {
            server.flush().unwrap();
        }
        server.tell(Event::DriverReady).unwrap();
        assert_eq!(events.recv().unwrap(), Some(Event::DriverReady));
        assert!(client.replies.lock().unwrap().try_recv().is_err());
    }

    #[test]
    fn refusal_is_told_and_the_talk_goes_on() {
        let (client, mut server, _events) = pair();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let call = next(&mut server).unwrap();
                server.reply(call.id, Reply::Refused { reason: "no balloon".into() }).unwrap();
                let call = next(&mut server).unwrap();
                server.reply(call.id, Reply::Done).unwrap();
            });
            let refused = client.command(Request::BalloonTarget { mib: 1 }, SOON).unwrap_err();
            assert_eq!(refused.to_string(), "the VMM refuses: no balloon");
            client.command(Request::Resume, SOON).unwrap();
        });
    }

    #[test]
    fn vmm_that_goes_is_an_end_for_who_listens_and_who_asks() {
        let (client, server, events) = pair();
        drop(server);
        assert_eq!(events.recv().unwrap(), None);
        assert!(matches!(client.command(Request::Stop, SOON), Err(ClientError::Gone)));
    }

    #[test]
    fn vmm_that_makes_no_sense_is_ended() {
        let (ours, theirs) = Channel::pair().unwrap();
        let (sender, events) = mpsc::channel();
        let _client = Client::start(ours, move |event| sender.send(event).unwrap()).unwrap();
        assert!(theirs.send(&"nonsense", None).unwrap());
        assert_eq!(events.recv().unwrap(), None);
        assert!(matches!(theirs.receive::<Call>().unwrap(), Received::End));
    }

    #[test]
    fn dropped_client_is_an_end_for_the_vmm() {
        let (client, mut server, _events) = pair();
        drop(client);
        assert!(matches!(next(&mut server), Err(ControlError::Gone)));
    }
}
