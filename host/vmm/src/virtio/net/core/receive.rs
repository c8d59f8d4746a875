//! Packets for the guest. One that finds no room in the queue, or that the limit holds back, is
//! kept until it does: no event of the port is ever lost with it.

use std::io::Write;

use virtio_queue::{Queue, QueueOwnedT, QueueT};

use super::header::{HEADER_LEN, Header};
use super::used::{publish, wants_interrupt};
use super::{MAX_PACKET_LEN, MIN_FRAME_LEN, Offloads, Port, RX_LIMITS, Received};
use crate::Memory;
use crate::virtio::queue::{Chain, Request, Writer};
use crate::virtio::{Outcome, QueueError};

/// What was counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Packets that the guest got.
    pub packets: u64,
    /// Bytes of their frames.
    pub bytes: u64,
    /// Chains that take no packet.
    pub malformed: u64,
    /// Packets dropped because the guest's buffers were too small.
    pub too_small: u64,
    /// Packets dropped because this driver cannot take their kind, or nobody could.
    pub unfit: u64,
    /// How often the port failed.
    pub failed: u64,
    /// How often a packet waited for buffers.
    pub starved: u64,
}

/// A packet in the buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Held {
    header: Header,
    len: usize,
    /// The limit let it pass.
    paid: bool,
}

/// Whether there is a packet to be given to the guest.
enum Loaded {
    Ready(Held),
    Dropped,
    Nothing,
}

/// Chains taken out of the queue for a packet.
enum Taken<'m> {
    /// They have room for it.
    Room(Vec<(u16, Writer<'m>)>),
    /// As many as there can be have none.
    TooSmall(Vec<u16>),
    /// The last of them takes nothing.
    Unusable(Vec<u16>),
    /// There are not enough yet.
    Starved,
}

/// What was done with a packet.
enum Placed {
    /// So many chains were given back, with or without it.
    Used(u16),
    /// It waits for buffers.
    Starved,
}

/// The guest's receiving side. Its counts outlive a reset.
#[derive(Debug)]
pub struct Receiver {
    /// A byte longer than the longest packet, so that one that is too long shows.
    buffer: Vec<u8>,
    held: Option<Held>,
    offloads: Offloads,
    mergeable: bool,
    counts: Counts,
}

impl Default for Receiver {
    fn default() -> Self {
        Self {
            buffer: vec![0; MAX_PACKET_LEN + 1],
            held: None,
            offloads: Offloads::default(),
            mergeable: false,
            counts: Counts::default(),
        }
    }
}

impl Receiver {
    /// A driver begins, with which these were agreed on; `mergeable`: a packet may lie in several
    /// buffers.
    pub fn start(&mut self, offloads: Offloads, mergeable: bool) {
        self.held = None;
        self.offloads = offloads;
        self.mergeable = mergeable;
    }

    /// What was counted.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Gives packets to the guest until there is none, no buffer is left, the limit allows no more,
    /// or a full queue of buffers was used. `allow` is asked before so many bytes are given.
    ///
    /// # Errors
    /// [`QueueError`]: the queue is broken.
    pub fn process(
        &mut self,
        memory: &Memory,
        queue: &mut Queue,
        port: &mut impl Port,
        mut allow: impl FnMut(u64) -> bool,
    ) -> Result<Outcome, QueueError> {
        let mut outcome = Outcome::default();
        let before = queue.next_used();
        let mut budget = queue.size();
        loop {
            if budget == 0 {
                outcome.more = true;
                break;
            }
            let held = match self.load(port, &mut allow) {
                Loaded::Ready(held) => held,
                Loaded::Dropped => {
                    budget -= 1;
                    continue;
                }
                Loaded::Nothing => break,
            };
            match self.place(held, memory, queue)? {
                Placed::Used(chains) => {
                    outcome.progress = true;
                    budget = budget.saturating_sub(chains);
                }
                Placed::Starved => {
                    self.counts.starved += 1;
                    break;
                }
            }
        }
        if outcome.progress {
            outcome.notify = wants_interrupt(queue, memory, before)?;
        }
        Ok(outcome)
    }

    /// The packet that waits, or the next one of the port, if the limit allows.
    fn load(&mut self, port: &mut impl Port, allow: &mut impl FnMut(u64) -> bool) -> Loaded {
        let mut held = match self.held {
            Some(held) => held,
            None => match port.receive(&mut self.buffer) {
                Received::Packet(len) => match self.examine(len) {
                    Some(header) => Held { header, len, paid: false },
                    None => {
                        self.counts.unfit += 1;
                        return Loaded::Dropped;
                    }
                },
                Received::Nothing => return Loaded::Nothing,
                Received::Failed => {
                    self.counts.failed += 1;
                    return Loaded::Nothing;
                }
            },
        };
        held.paid = held.paid || allow((held.len - HEADER_LEN) as u64);
        self.held = Some(held);
        if held.paid { Loaded::Ready(held) } else { Loaded::Nothing }
    }

    fn examine(&self, len: usize) -> Option<Header> {
        let packet = self.buffer.get(..len.min(MAX_PACKET_LEN + 1))?;
        let (header, frame) = packet.split_first_chunk::<HEADER_LEN>()?;
        if frame.len() < MIN_FRAME_LEN || packet.len() > MAX_PACKET_LEN {
            return None;
        }
        Header::from_bytes(*header).received(self.offloads).ok()
    }

    /// Puts the packet into as few chains as hold it, or drops it where the whole queue does not.
    fn place(
        &mut self,
        held: Held,
        memory: &Memory,
        queue: &mut Queue,
    ) -> Result<Placed, QueueError> {
        let most = if self.mergeable { queue.size() } else { 1 };
        let used: Vec<(u16, u32)> = match take(queue, memory, held.len, most)? {
            Taken::Starved => return Ok(Placed::Starved),
            Taken::Room(chains) => {
                self.held = None;
                self.counts.packets += 1;
                self.counts.bytes += (held.len - HEADER_LEN) as u64;
                self.write(held, chains)
            }
            // A driver that gives such buffers gets them back, so that neither side waits for ever.
            Taken::TooSmall(heads) => {
                self.held = None;
                self.counts.too_small += 1;
                heads.into_iter().map(|head| (head, 0)).collect()
            }
            Taken::Unusable(heads) => {
                self.counts.malformed += 1;
                heads.into_iter().map(|head| (head, 0)).collect()
            }
        };
        publish(queue, memory, &used)?;
        Ok(Placed::Used(u16::try_from(used.len()).unwrap_or(u16::MAX)))
    }

    /// Writes the packet over chains that have room for it: heads and lengths.
    fn write(&mut self, held: Held, chains: Vec<(u16, Writer<'_>)>) -> Vec<(u16, u32)> {
        let num_buffers = u16::try_from(chains.len()).unwrap_or(u16::MAX);
        self.buffer[..HEADER_LEN].copy_from_slice(&held.header.to_bytes(num_buffers));
        let mut rest = &self.buffer[..held.len];
        let mut used = Vec::with_capacity(chains.len());
        for (head, mut writer) in chains {
            let (now, later) = rest.split_at(rest.len().min(writer.available_bytes()));
            // It has room for this, and guest memory does not fail.
            let _ = writer.write_all(now);
            used.push((head, writer.written()));
            rest = later;
        }
        used
    }
}

/// Takes as few chains as hold `len` bytes, `most` at most. When there are not enough of them yet,
/// they stay in the queue.
fn take<'m>(
    queue: &mut Queue,
    memory: &'m Memory,
    len: usize,
    most: u16,
) -> Result<Taken<'m>, QueueError> {
    let mut chains: Vec<(u16, Writer<'m>)> = Vec::new();
    let mut room = 0;
    let mut taken = 0;
    while room < len {
        if taken == most {
            return Ok(Taken::TooSmall(heads(chains)));
        }
        let Some(chain) = next_chain(queue, memory)? else {
            queue.set_next_avail(queue.next_avail().wrapping_sub(taken));
            return Ok(Taken::Starved);
        };
        taken += 1;
        let head = chain.head_index();
        let request = Request::split(chain, memory, RX_LIMITS).ok();
        // Each has to hold a header at least. virtio 1.2 §5.1.6.3.1.
        let usable = request.filter(|request| request.writer.available_bytes() >= HEADER_LEN);
        let Some(Request { writer, .. }) = usable else {
            let mut heads = heads(chains);
            heads.push(head);
            return Ok(Taken::Unusable(heads));
        };
        room += writer.available_bytes();
        chains.push((head, writer));
    }
    Ok(Taken::Room(chains))
}

fn heads(chains: Vec<(u16, Writer<'_>)>) -> Vec<u16> {
    chains.into_iter().map(|(head, _)| head).collect()
}

/// The next chain. If there is none, the guest is asked to tell when there is.
fn next_chain<'m>(queue: &mut Queue, memory: &'m Memory) -> Result<Option<Chain<'m>>, QueueError> {
    if let Some(chain) = queue.iter(memory)?.next() {
        return Ok(Some(chain));
    }
    // It may have added some before it saw us ask.
    if !queue.enable_notification(memory)? {
        return Ok(None);
    }
    Ok(queue.iter(memory)?.next())
}
