//! The agent's end of the link to a second stage.

use std::{
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream as StdStream,
    },
};

use tokio::{
    io::{AsyncWriteExt, Interest},
    net::UnixStream,
};

use super::{Result, SupervisorError, listener::Announcement};
use crate::{
    container::link::{GO, Order, Report, frame, unframe},
    sys,
};

/// Reports are short; one that is not is no report.
const MAX_REPORT: usize = 64 << 10;

/// A second stage, from the agent's side.
#[derive(Debug)]
pub struct Stage {
    link: UnixStream,
    received: Vec<u8>,
    terminal: Option<OwnedFd>,
    announcement: Option<Announcement>,
    /// What became of the order on its way.
    sent: io::Result<()>,
}

fn broken(error: io::Error) -> SupervisorError {
    SupervisorError::Step { step: "talk to the second stage", source: error }
}

impl Stage {
    /// A new link, and the stage's end of it.
    ///
    /// # Errors
    /// As socketpair(2).
    pub fn new() -> Result<(Self, OwnedFd)> {
        let pair = || -> io::Result<_> {
            let (ours, theirs) = StdStream::pair()?;
            ours.set_nonblocking(true)?;
            Ok((UnixStream::from_std(ours)?, OwnedFd::from(theirs)))
        };
        let (link, theirs) = pair().map_err(broken)?;
        let stage =
            Self { link, received: Vec::new(), terminal: None, announcement: None, sent: Ok(()) };
        Ok((stage, theirs))
    }

    /// Keeps what is told of the process when its filter has a listener.
    pub fn announce_to(&mut self, announcement: Option<Announcement>) {
        self.announcement = announcement;
    }

    /// Sends the order, and waits until all is set up. Returns the terminal's master if there is
    /// one.
    ///
    /// # Errors
    /// [`SupervisorError::Stage`] with the stage's own words.
    pub async fn set_up(&mut self, order: &Order) -> Result<Option<OwnedFd>> {
        self.order(order).await?;
        self.ready().await
    }

    /// Sends the order.
    ///
    /// # Errors
    /// [`SupervisorError::Step`] for one that is too long.
    pub async fn order(&mut self, order: &Order) -> Result<()> {
        let frame = frame(order).map_err(broken)?;
        // A stage that has failed meanwhile has said why: its report is looked at first.
        self.sent = self.link.write_all(&frame).await;
        Ok(())
    }

    /// Waits until the stage pauses for hooks.
    ///
    /// # Errors
    /// As [`Self::ready`].
    pub async fn prepared(&mut self) -> Result<()> {
        match self.good_report().await? {
            Report::Prepared => Ok(()),
            _ => Err(broken(io::ErrorKind::InvalidData.into())),
        }
    }

    /// Waits until all is set up. Returns the terminal's master if there is one.
    ///
    /// # Errors
    /// [`SupervisorError::Stage`] with the stage's own words.
    pub async fn ready(&mut self) -> Result<Option<OwnedFd>> {
        match self.good_report().await? {
            Report::Ready => Ok(self.terminal.take()),
            _ => Err(broken(io::ErrorKind::InvalidData.into())),
        }
    }

    async fn good_report(&mut self) -> Result<Report> {
        match self.report().await? {
            Some(Report::Failed(failure)) => Err(SupervisorError::Stage(failure)),
            Some(report) => Ok(report),
            None => match std::mem::replace(&mut self.sent, Ok(())) {
                Ok(()) => Err(SupervisorError::StageEnded),
                Err(error) => Err(broken(error)),
            },
        }
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// [`SupervisorError`] when it is not there any more.
    pub async fn go(&mut self) -> Result<()> {
        self.link.write_all(&[GO]).await.map_err(broken)
    }

    /// Waits until the user's program is executed, which closes the link.
    ///
    /// # Errors
    /// [`SupervisorError::Stage`] with the stage's own words.
    pub async fn executed(mut self) -> Result<()> {
        loop {
            match (self.report().await?, self.announcement.take()) {
                (None, _) => return Ok(()),
                (Some(Report::Failed(failure)), _) => return Err(SupervisorError::Stage(failure)),
                (Some(Report::Listener(descriptor)), Some(announcement)) => {
                    announcement.hand_over(descriptor).await?;
                    self.go().await?;
                }
                (Some(_), _) => return Err(broken(io::ErrorKind::InvalidData.into())),
            }
        }
    }

    /// The next report, or nothing at the end of the link.
    async fn report(&mut self) -> Result<Option<Report>> {
        loop {
            if let Some(report) = unframe(&mut self.received).map_err(broken)? {
                return Ok(Some(report));
            }
            if self.received.len() > MAX_REPORT {
                return Err(broken(io::ErrorKind::InvalidData.into()));
            }
            let mut buffer = [0; 1024];
            let received = self
                .link
                .async_io(Interest::READABLE, || {
                    Ok(sys::descriptor::receive_with(self.link.as_fd(), &mut buffer)?)
                })
                .await;
            let (len, fd) = match received {
                // It ended with something unread.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => (0, None),
                received => received.map_err(broken)?,
            };
            if len == 0 {
                return Ok(None);
            }
            self.terminal = fd.or(self.terminal.take());
            self.received.extend_from_slice(buffer.get(..len).unwrap_or_default());
        }
    }
}
