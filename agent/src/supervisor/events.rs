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

/// An event as it is remembered.
#[derive(Debug)]
struct Entry {
    time: Duration,
    happening: Happening,
    /// Lengths of its names; 0 for no exec.
    container: u8,
    exec: u8,
}

/// The latest ones. Their names lie end to end in one place: a thousand small allocations that
/// outlive all around them would keep the pages between them.
#[derive(Debug)]
pub struct Events {
    ring: VecDeque<Entry>,
    /// Of each entry the container's and the exec's.
    names: VecDeque<u8>,
    /// The sequence number of the latest.
    news: watch::Sender<u64>,
}

impl Default for Events {
    fn default() -> Self {
        Self { ring: VecDeque::new(), names: VecDeque::new(), news: watch::channel(0).0 }
    }
}

impl Events {
    /// Adds one, and wakes those who wait.
    pub fn push(&mut self, container: ContainerId, exec: Option<ExecId>, happening: Happening) {
        let sequence = *self.news.borrow() + 1;
        // A clock before 1970 is none.
        let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        if self.ring.len() == CAPACITY
            && let Some(oldest) = self.ring.pop_front()
        {
            self.names.drain(..oldest.names_len());
        }
        let container = self.keep(container.as_str());
        let exec = exec.map_or(0, |exec| self.keep(exec.as_str()));
        self.ring.push_back(Entry { time, happening, container, exec });
        self.news.send_replace(sequence);
    }

    fn keep(&mut self, name: &str) -> u8 {
        self.names.extend(name.as_bytes());
        u8::try_from(name.len()).expect("an id is at most 128 bytes long")
    }

    /// Tells when there are more.
    #[must_use]
    pub fn news(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    /// Those after a sequence number; a limit of 0 is none.
    #[must_use]
    pub fn since(&self, after: u64, limit: usize) -> Batch {
        let forgotten = *self.news.borrow() - self.ring.len() as u64;
        let lost = forgotten.saturating_sub(after);
        let limit = if limit == 0 { CAPACITY } else { limit };
        let mut events = Vec::new();
        let (mut sequence, mut place) = (forgotten, 0);
        for entry in &self.ring {
            sequence += 1;
            if sequence > after && events.len() < limit {
                events.extend(self.event(entry, sequence, place));
            }
            place += entry.names_len();
        }
        let last = events.last().map_or(after, |event| event.sequence);
        Batch { events, lost, last }
    }

    /// What was remembered; never nothing, since only ids are kept.
    fn event(&self, entry: &Entry, sequence: u64, place: usize) -> Option<Event> {
        let text = |from: usize, len: u8| {
            let bytes = self.names.range(from..from + usize::from(len)).copied().collect();
            String::from_utf8(bytes).ok()
        };
        let container = text(place, entry.container)?.try_into().ok()?;
        let exec = match entry.exec {
            0 => None,
            len => Some(text(place + usize::from(entry.container), len)?.try_into().ok()?),
        };
        let Entry { time, happening, .. } = *entry;
        Some(Event { sequence, time, container, exec, happening })
    }
}

impl Entry {
    fn names_len(&self) -> usize {
        usize::from(self.container) + usize::from(self.exec)
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
    fn names_are_those_of_their_event() {
        let mut events = Events::default();
        let name = |i: usize| format!("{}{i}", "n".repeat(i % 100));
        let exec = |i: usize| i.is_multiple_of(3).then(|| format!("{i}").parse().unwrap());
        for i in 0..CAPACITY * 2 + 7 {
            events.push(name(i).parse().unwrap(), exec(i), Happening::Created);
        }
        let batch = events.since(0, 0);
        assert_eq!(batch.events.len(), CAPACITY);
        for event in batch.events {
            let i = usize::try_from(event.sequence - 1).unwrap();
            assert_eq!(event.container.as_str(), name(i));
            assert_eq!(event.exec, exec(i));
        }
        let kept: usize = events.ring.iter().map(Entry::names_len).sum();
        assert_eq!(events.names.len(), kept);
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
