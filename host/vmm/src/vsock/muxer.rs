//! The table of connections of one device: finds the connection of a packet, answers packets
//! that belong to none, and lets connections speak in turn. Bounded by `Limits`; knows no queue
//! and no descriptor.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io::{self, Read, Write};

use super::Config;
use super::connection::{Connection, Output};
use super::packet::{HEADER_LEN, Header, Op, TYPE_STREAM};

/// First port of connections that the host opens; those below are for services.
const FIRST_EPHEMERAL_PORT: u32 = 1 << 30;
/// The first of the ports that mean no port. `VMADDR_PORT_ANY`, vsock(7).
const PORT_ANY: u32 = u32::MAX;

/// The two ends of a connection; the addresses are the same for all of one device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ConnectionId {
    /// Port on the host.
    pub host_port: u32,
    /// Port in the guest.
    pub guest_port: u32,
}

/// Why the host cannot open a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("open a connection to guest port {guest_port}: {limit} connections are open")]
pub struct TooManyConnections {
    guest_port: u32,
    limit: usize,
}

/// What passed a device since it was made; resets change nothing of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Packets of the guest.
    pub received_packets: u64,
    /// Their payload, of connections that there are.
    pub received_bytes: u64,
    /// Packets for the guest.
    pub sent_packets: u64,
    /// Their payload.
    pub sent_bytes: u64,
    /// Packets of the guest that make no sense.
    pub malformed: u64,
}

#[derive(Debug)]
struct Entry {
    connection: Connection,
    /// In `Muxer::speakers`.
    speaks: bool,
    /// In `Muxer::changed`.
    changed: bool,
    /// Counts in `Muxer::large`.
    large: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Muxer {
    config: Config,
    entries: HashMap<ConnectionId, Entry>,
    listeners: HashSet<u32>,
    /// Connections that the guest asks for, in order.
    offers: VecDeque<ConnectionId>,
    /// Connections with something to say to the guest, in turn.
    speakers: VecDeque<ConnectionId>,
    /// Connections whose host side may have something to do.
    changed: VecDeque<ConnectionId>,
    /// Answers to packets of no connection.
    resets: VecDeque<Header>,
    large: usize,
    next_port: u32,
    traffic: Traffic,
}

impl Muxer {
    /// A table without connections.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self {
            config,
            entries: HashMap::new(),
            listeners: HashSet::new(),
            offers: VecDeque::new(),
            speakers: VecDeque::new(),
            changed: VecDeque::new(),
            resets: VecDeque::new(),
            large: 0,
            next_port: FIRST_EPHEMERAL_PORT,
            traffic: Traffic::default(),
        }
    }

    /// What passed until now.
    #[must_use]
    pub fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// Addresses and bounds.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Number of connections.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no connection.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Forgets every connection without a word to the guest, which was reset. Listeners stay.
    /// Returns the connections that were.
    pub fn reset(&mut self) -> Vec<ConnectionId> {
        let listeners = std::mem::take(&mut self.listeners);
        let Self { next_port, traffic, .. } = *self;
        let old = std::mem::replace(self, Self::new(self.config));
        self.listeners = listeners;
        self.next_port = next_port;
        self.traffic = traffic;
        old.entries.into_keys().collect()
    }

    // ---- the guest's side ----

    /// Whether another packet of the guest may be taken. If not, the guest has to take packets
    /// first.
    #[must_use]
    pub fn can_receive(&self) -> bool {
        self.resets.len() < self.config.limits.pending_resets
    }

    /// Takes one packet of the guest. `payload` yields at least `header.len` bytes.
    pub fn receive(&mut self, header: &Header, payload: &mut impl Read) {
        self.traffic.received_packets = self.traffic.received_packets.saturating_add(1);
        if header.src_cid != self.config.guest_cid {
            tracing::debug!(src_cid = header.src_cid, "vsock packet of a foreign address dropped");
            return;
        }
        let op = Op::from_wire(header.op);
        let addressed = header.dst_cid == self.config.host_cid && header.kind == TYPE_STREAM;
        let id = ConnectionId { host_port: header.dst_port, guest_port: header.src_port };
        let may_offer = addressed && self.may_offer(id);
        match (op, self.entries.get_mut(&id)) {
            // The guest reuses a port before the host took the last byte of its former stream.
            (Some(Op::Request), Some(entry)) if entry.connection.is_over_for_guest() => {
                self.resets.push_back(reset_for(header));
            }
            (Some(op), Some(entry)) if addressed => {
                let bytes = &mut self.traffic.received_bytes;
                *bytes = bytes.saturating_add(u64::from(header.len));
                entry.connection.receive(op, header, payload);
                self.wake_both(id);
            }
            (Some(Op::Request), None) if may_offer => {
                self.insert(id, |buffer_bytes| Connection::offered(header, buffer_bytes));
                self.offers.push_back(id);
            }
            (Some(Op::Reset), _) => {}
            _ => self.resets.push_back(reset_for(header)),
        }
    }

    /// Counts a packet that has not even a header.
    pub fn drop_malformed(&mut self) {
        self.traffic.malformed = self.traffic.malformed.saturating_add(1);
    }

    /// Refuses the connection of a packet that cannot be read whole.
    pub fn receive_malformed(&mut self, header: &Header) {
        self.drop_malformed();
        let id = ConnectionId { host_port: header.dst_port, guest_port: header.src_port };
        if self.update(id, Connection::abort).is_some() {
            self.wake_both(id);
        } else if header.op != Op::Reset.to_wire() {
            self.resets.push_back(reset_for(header));
        }
    }

    fn may_offer(&self, id: ConnectionId) -> bool {
        self.listeners.contains(&id.host_port)
            && id.guest_port != PORT_ANY
            && self.entries.len() < self.config.limits.connections
            && self.offers.len() < self.config.limits.backlog
    }

    /// Whether a packet may wait for the guest. May be true in vain, never false in vain.
    #[must_use]
    pub fn has_output(&self) -> bool {
        !self.resets.is_empty() || !self.speakers.is_empty()
    }

    /// Writes the next packet for the guest into a buffer that takes `room` bytes of payload
    /// behind the header. Returns the bytes written, `None` when there is no packet.
    ///
    /// # Errors
    /// Those of `writer`; the packet's connection is aborted.
    pub fn send(&mut self, room: usize, writer: &mut impl Write) -> io::Result<Option<usize>> {
        if let Some(header) = self.resets.pop_front() {
            writer.write_all(&header.to_bytes())?;
            self.count_sent(0);
            return Ok(Some(HEADER_LEN));
        }
        while let Some(id) = self.speakers.pop_front() {
            let Some(entry) = self.entries.get_mut(&id) else { continue };
            entry.speaks = false;
            let Some(output) = entry.connection.output(room) else { continue };
            let (buf_alloc, fwd_cnt) = entry.connection.sent(&output);
            let header = header_of(&self.config, id, &output, buf_alloc, fwd_cnt);
            let written = writer
                .write_all(&header.to_bytes())
                .and_then(|()| entry.connection.take_payload(writer, output.len));
            if written.is_err() {
                entry.connection.abort();
            }
            self.wake_both(id);
            written?;
            self.count_sent(output.len);
            return Ok(Some(HEADER_LEN + output.len as usize));
        }
        Ok(None)
    }

    fn count_sent(&mut self, bytes: u32) {
        let traffic = &mut self.traffic;
        traffic.sent_packets = traffic.sent_packets.saturating_add(1);
        traffic.sent_bytes = traffic.sent_bytes.saturating_add(u64::from(bytes));
    }

    // ---- the host's side ----

    /// Opens a connection to a port of the guest. The host may write at once.
    ///
    /// # Errors
    /// [`TooManyConnections`] by `Limits::connections`.
    pub fn connect(&mut self, guest_port: u32) -> Result<ConnectionId, TooManyConnections> {
        let limit = self.config.limits.connections;
        if self.entries.len() >= limit {
            return Err(TooManyConnections { guest_port, limit });
        }
        // Fewer connections than ports: the loop ends.
        let id = loop {
            let id = ConnectionId { host_port: self.next_port, guest_port };
            self.next_port = match self.next_port + 1 {
                PORT_ANY => FIRST_EPHEMERAL_PORT,
                port => port,
            };
            if !self.entries.contains_key(&id) && !self.listeners.contains(&id.host_port) {
                break id;
            }
        };
        self.insert(id, Connection::requesting);
        self.wake_both(id);
        Ok(id)
    }

    /// Lets the guest connect to a port of the host. False when it already could.
    pub fn listen(&mut self, host_port: u32) -> bool {
        host_port != PORT_ANY && self.listeners.insert(host_port)
    }

    /// The guest's requests for a port are refused from now on; connections stay.
    pub fn unlisten(&mut self, host_port: u32) {
        self.listeners.remove(&host_port);
    }

    /// The next connection that the guest asks for: to be accepted or aborted.
    pub fn next_offer(&mut self) -> Option<ConnectionId> {
        self.offers.pop_front()
    }

    /// The next connection whose host side may have something to do.
    pub fn next_changed(&mut self) -> Option<ConnectionId> {
        while let Some(id) = self.changed.pop_front() {
            if let Some(entry) = self.entries.get_mut(&id) {
                entry.changed = false;
                return Some(id);
            }
        }
        None
    }

    /// Changes a connection from the host's side, and lets it speak to the guest if it then has
    /// to. `None` when there is no such connection.
    pub fn update<T>(
        &mut self,
        id: ConnectionId,
        change: impl FnOnce(&mut Connection) -> T,
    ) -> Option<T> {
        let entry = self.entries.get_mut(&id)?;
        let result = change(&mut entry.connection);
        self.wake_speaker(id);
        Some(result)
    }

    fn insert(&mut self, id: ConnectionId, connection: impl FnOnce(u32) -> Connection) {
        let limits = &self.config.limits;
        let large = self.large < limits.large_connections;
        let bytes = if large { limits.buffer_bytes } else { limits.small_buffer_bytes };
        self.large += usize::from(large);
        let entry = Entry { connection: connection(bytes), speaks: false, changed: false, large };
        self.entries.insert(id, entry);
    }

    fn wake_speaker(&mut self, id: ConnectionId) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        if !entry.speaks && entry.connection.output(usize::MAX).is_some() {
            entry.speaks = true;
            self.speakers.push_back(id);
        }
    }

    fn wake_both(&mut self, id: ConnectionId) {
        self.wake_speaker(id);
        let Some(entry) = self.entries.get_mut(&id) else { return };
        if !entry.changed {
            entry.changed = true;
            self.changed.push_back(id);
        }
    }

    /// Forgets a connection that is over on both sides. True when it was.
    pub fn forget_if_over(&mut self, id: ConnectionId) -> bool {
        if !self.entries.get(&id).is_some_and(|entry| entry.connection.is_over()) {
            return false;
        }
        if let Some(entry) = self.entries.remove(&id) {
            self.large -= usize::from(entry.large);
            // Without these a guest that opens and resets in turn would fill the queues.
            if entry.speaks {
                self.speakers.retain(|other| *other != id);
            }
            if entry.changed {
                self.changed.retain(|other| *other != id);
            }
        }
        true
    }
}

fn header_of(
    config: &Config,
    id: ConnectionId,
    output: &Output,
    buf_alloc: u32,
    fwd_cnt: u32,
) -> Header {
    Header {
        src_cid: config.host_cid,
        dst_cid: config.guest_cid,
        src_port: id.host_port,
        dst_port: id.guest_port,
        len: output.len,
        kind: TYPE_STREAM,
        op: output.op.to_wire(),
        flags: output.flags,
        buf_alloc,
        fwd_cnt,
    }
}

/// The answer to a packet that belongs to no connection: its ends swapped, its type kept.
fn reset_for(header: &Header) -> Header {
    Header {
        src_cid: header.dst_cid,
        dst_cid: header.src_cid,
        src_port: header.dst_port,
        dst_port: header.src_port,
        kind: header.kind,
        op: Op::Reset.to_wire(),
        ..Header::default()
    }
}

#[cfg(test)]
mod tests;
