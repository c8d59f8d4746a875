//! What has happened to containers, for a host that asks now and then: a ring that remembers the
//! latest and counts those that are gone.

use std::{
    collections::VecDeque,
    time::{Duration, SystemTime},
};

use husk_protocols::id::{ContainerId, ExecId};
use tokio::sync::watch;

use super::process::Outcome;

/// How many are remembered.
const CAPACITY: usize = 1024;

/// What can happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Happening {
    /// It is set up.
    Created,
    /// Its program runs.
    Started,
    /// The program of an exec runs.
    ExecStarted,
    /// A process has ended, and its output is delivered.
    Exited(Outcome),
    /// The kernel has killed for want of memory, so many since the container was made.
    Oom {
        /// How many.
        kills: u64,
    },
    /// All its processes stand.
    Paused,
    /// They go on.
    Resumed,
    /// It has other resources.
    Updated,
    /// Nothing is left of it.
    Deleted,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Counts from 1, without gaps.
    pub sequence: u64,
    /// Since 1970.
    pub time: Duration,
    /// To whom.
    pub container: ContainerId,
    /// `None` for the first process, and for the container as a whole.
    pub exec: Option<ExecId>,
    /// What.
    pub happening: Happening,
}

/// An answer to one who asks.
#[derive(Debug, PartialEq, Eq)]
pub struct Batch {
    /// Oldest first.
    pub events: Vec<Event>,
    /// How many were forgotten before they were asked for.
    pub lost: u64,
    /// What to ask for next.
    pub last: u64,
}

/// The latest ones.
#[derive(Debug)]
pub struct Events {
    ring: VecDeque<Event>,
    /// The sequence number of the latest.
    news: watch::Sender<u64>,
}

impl Default for Events {
    fn default() -> Self {
        Self { ring: VecDeque::new(), news: watch::channel(0).0 }
    }
}

impl Events {
    /// Adds one, and wakes those who wait.
    pub fn push(&mut self, container: ContainerId, exec: Option<ExecId>, happening: Happening) {
        let sequence = *self.news.borrow() + 1;
        // A clock before 1970 is none.
        let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        if self.ring.len() == CAPACITY {
            self.ring.pop_front();
        }
        self.ring.push_back(Event { sequence, time, container, exec, happening });
        self.news.send_replace(sequence);
    }

    /// Tells when there are more.
    #[must_use]
    pub fn news(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    /// Those after a sequence number; a limit of 0 is none.
    #[must_use]
    pub fn since(&self, after: u64, limit: usize) -> Batch {
        let oldest = self.ring.front().map_or(1, |event| event.sequence);
        let lost = (oldest - 1).saturating_sub(after);
        let limit = if limit == 0 { CAPACITY } else { limit };
        let later = self.ring.iter().filter(|event| event.sequence > after);
        let events: Vec<Event> = later.take(limit).cloned().collect();
        let last = events.last().map_or(after, |event| event.sequence);
        Batch { events, lost, last }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(count: u64) -> Events {
        let mut events = Events::default();
        for i in 0..count {
            events.push("a".parse().unwrap(), None, Happening::Oom { kills: i });
        }
        events
    }

    fn numbers(batch: &Batch) -> Vec<u64> {
        batch.events.iter().map(|event| event.sequence).collect()
    }

    #[test]
    fn events_are_read_in_pieces_without_gaps() {
        let events = filled(5);
        let first = events.since(0, 2);
        assert_eq!((numbers(&first), first.lost, first.last), (vec![1, 2], 0, 2));
        let rest = events.since(first.last, 0);
        assert_eq!((numbers(&rest), rest.lost, rest.last), (vec![3, 4, 5], 0, 5));
        let none = events.since(rest.last, 0);
        assert_eq!((numbers(&none), none.lost, none.last), (vec![], 0, 5));
        assert_eq!(Events::default().since(0, 0).events, []);
    }

    #[test]
    fn forgotten_events_are_counted() {
        let capacity = u64::try_from(CAPACITY).unwrap();
        let events = filled(capacity + 10);
        assert_eq!(events.ring.len(), CAPACITY);
        let batch = events.since(3, 1);
        assert_eq!((numbers(&batch), batch.lost), (vec![11], 7));
        assert_eq!(events.since(10, 1).lost, 0);
        assert_eq!(events.since(capacity + 10, 1).lost, 0);
    }

    #[test]
    fn one_who_waits_is_woken() {
        let mut events = filled(1);
        let mut news = events.news();
        assert!(!news.has_changed().unwrap());
        events.push("a".parse().unwrap(), None, Happening::Created);
        assert!(news.has_changed().unwrap());
        assert_eq!(*news.borrow_and_update(), 2);
    }
}
