//! One stream between guest and host. Holds its bytes and its state; knows no queue and no
//! descriptor, and never blocks.
//!
//! ```text
//! host connects            guest sends REQUEST
//!      |                          |
//!  Requesting                  Offered
//!      | RESPONSE                 | accept
//!      '------------> Open <------'
//!                      |  \
//!     RST from guest   |   \  nothing left to say, or the guest broke the protocol
//!                      v    v
//!                 Draining  Aborted --RST to guest--> Over
//!                      |
//!                      '--last byte to the host--> Over
//! ```
//!
//! Half-close: the host's end of input becomes SHUTDOWN(send) behind the last byte; the guest's
//! SHUTDOWN(send) becomes the host's end of input behind the last byte.

use std::io::{Read, Write};

use super::buffer::ByteRing;
use super::credit::{ReceiveCredit, SendCredit};
use super::packet::{self, Header, MAX_PAYLOAD_LEN, Op};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Requesting { sent: bool },
    Offered,
    Open { response_due: bool },
    Draining,
    Aborted,
    Over,
}

/// The host's end of the stream, as far as it went.
#[derive(Debug, Default)]
struct HostEnd {
    /// It writes no more.
    ended: bool,
    /// It reads no more.
    deaf: bool,
}

/// A connection, see the module.
#[derive(Debug)]
pub struct Connection {
    phase: Phase,
    to_host: ByteRing,
    to_guest: ByteRing,
    send: SendCredit,
    receive: ReceiveCredit,
    host: HostEnd,
    /// `SHUTDOWN_*` flags that the guest sent.
    guest_shutdown: u32,
    /// `SHUTDOWN_*` flags that the guest was told.
    told_shutdown: u32,
    credit_update_due: bool,
    credit_requested: bool,
}

/// What the next packet of a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Output {
    /// Its operation.
    pub op: Op,
    /// Its flags.
    pub flags: u32,
    /// Its bytes of payload, to be taken with [`Connection::take_payload`].
    pub len: u32,
}

impl Connection {
    /// A connection that the host asks for.
    #[must_use]
    pub fn requesting(buffer_bytes: u32) -> Self {
        Self::new(Phase::Requesting { sent: false }, buffer_bytes)
    }

    /// A connection that the guest asks for with `request`.
    #[must_use]
    pub fn offered(request: &Header, buffer_bytes: u32) -> Self {
        let mut connection = Self::new(Phase::Offered, buffer_bytes);
        connection.send.update(request.buf_alloc, request.fwd_cnt);
        connection
    }

    fn new(phase: Phase, buffer_bytes: u32) -> Self {
        let capacity = buffer_bytes as usize;
        Self {
            phase,
            to_host: ByteRing::new(capacity),
            to_guest: ByteRing::new(capacity),
            send: SendCredit::default(),
            receive: ReceiveCredit::new(buffer_bytes),
            host: HostEnd::default(),
            guest_shutdown: 0,
            told_shutdown: 0,
            credit_update_due: false,
            credit_requested: false,
        }
    }

    // ---- the guest's side ----

    /// Takes a packet of the guest; `payload` yields at least `header.len` bytes. A packet that
    /// has no place in the present state aborts the connection.
    pub fn receive(&mut self, op: Op, header: &Header, payload: &mut impl Read) {
        if op == Op::Reset {
            return self.guest_reset();
        }
        match (self.phase, op) {
            (Phase::Requesting { sent: true }, Op::Response) => {
                self.phase = Phase::Open { response_due: false };
                self.update_credit(header);
            }
            (Phase::Open { .. }, Op::Data) => {
                self.update_credit(header);
                self.receive_data(header.len, payload);
            }
            (Phase::Open { .. }, Op::Shutdown) => {
                self.update_credit(header);
                self.guest_shut_down(header.flags);
            }
            (Phase::Open { .. }, Op::CreditUpdate) => self.update_credit(header),
            (Phase::Open { .. }, Op::CreditRequest) => {
                self.update_credit(header);
                self.credit_update_due = true;
            }
            // Sent before the guest saw our RST.
            (Phase::Aborted | Phase::Draining | Phase::Over, _) => {}
            _ => self.abort(),
        }
    }

    fn update_credit(&mut self, header: &Header) {
        self.send.update(header.buf_alloc, header.fwd_cnt);
        if self.send.available() > 0 {
            self.credit_requested = false;
        }
    }

    fn receive_data(&mut self, len: u32, payload: &mut impl Read) {
        if self.guest_shutdown & packet::SHUTDOWN_SEND != 0 || self.receive.receive(len).is_err() {
            return self.abort();
        }
        if self.host.deaf {
            self.receive.forward(len);
        } else if self.to_host.fill_exact(payload, len as usize).is_err() {
            self.abort();
        }
    }

    fn guest_shut_down(&mut self, flags: u32) {
        self.guest_shutdown |= flags & packet::SHUTDOWN_BOTH;
        if self.guest_shutdown & packet::SHUTDOWN_RECEIVE != 0 {
            self.to_guest.clear();
            // Nothing the host writes can matter any more.
            self.host.ended = true;
        }
    }

    fn guest_reset(&mut self) {
        self.to_guest.clear();
        self.phase = match self.phase {
            Phase::Open { .. } | Phase::Draining if !self.to_host.is_empty() => Phase::Draining,
            _ => Phase::Over,
        };
    }

    /// What to send to the guest next, when a receive buffer takes `room` bytes of payload.
    #[must_use]
    pub fn output(&self, room: usize) -> Option<Output> {
        let control = |op| Some(Output { op, flags: 0, len: 0 });
        match self.phase {
            Phase::Requesting { sent: false } => control(Op::Request),
            Phase::Aborted => control(Op::Reset),
            Phase::Open { response_due: true } => control(Op::Response),
            Phase::Open { .. } => self.open_output(room),
            Phase::Requesting { sent: true } | Phase::Offered | Phase::Draining | Phase::Over => {
                None
            }
        }
    }

    fn open_output(&self, room: usize) -> Option<Output> {
        let control = |op| Some(Output { op, flags: 0, len: 0 });
        if self.nothing_left_to_say() {
            return control(Op::Reset);
        }
        let held = u32::try_from(self.to_guest.len().min(room)).unwrap_or(u32::MAX);
        let len = held.min(MAX_PAYLOAD_LEN).min(self.send.available());
        if len > 0 {
            return Some(Output { op: Op::Data, flags: 0, len });
        }
        let flags = self.shutdown_due();
        if flags != 0 {
            return Some(Output { op: Op::Shutdown, flags, len: 0 });
        }
        if !self.to_guest.is_empty() && self.send.available() == 0 && !self.credit_requested {
            return control(Op::CreditRequest);
        }
        if self.credit_update_due || self.receive.is_stale() {
            return control(Op::CreditUpdate);
        }
        None
    }

    fn nothing_left_to_say(&self) -> bool {
        let host_gone = self.host.ended && self.host.deaf;
        let guest_gone = self.guest_shutdown == packet::SHUTDOWN_BOTH;
        (host_gone || guest_gone) && self.to_guest.is_empty() && self.to_host.is_empty()
    }

    /// Flags that the guest must be told, together with those that it was told.
    fn shutdown_due(&self) -> u32 {
        let mut flags = self.told_shutdown;
        if self.host.ended && self.to_guest.is_empty() {
            flags |= packet::SHUTDOWN_SEND;
        }
        if self.host.deaf {
            flags |= packet::SHUTDOWN_RECEIVE;
        }
        if flags == self.told_shutdown { 0 } else { flags }
    }

    /// Notes that `output` is on its way, and returns the `(buf_alloc, fwd_cnt)` of its header.
    pub fn sent(&mut self, output: &Output) -> (u32, u32) {
        self.credit_update_due = false;
        match output.op {
            Op::Request => self.phase = Phase::Requesting { sent: true },
            Op::Response => self.phase = Phase::Open { response_due: false },
            Op::Reset => self.phase = Phase::Over,
            Op::Data => self.send.spend(output.len),
            Op::Shutdown => self.told_shutdown = output.flags,
            Op::CreditRequest => self.credit_requested = true,
            Op::CreditUpdate => {}
        }
        self.receive.tell()
    }

    /// Writes the payload of an output of `len` bytes.
    ///
    /// # Errors
    /// Those of `writer`; the connection is then to be aborted.
    pub fn take_payload(&mut self, writer: &mut impl Write, len: u32) -> std::io::Result<()> {
        self.to_guest.drain_exact(writer, len as usize)
    }

    // ---- the host's side ----

    /// The host takes the connection that the guest offered. False when there is no offer, or
    /// no longer.
    pub fn accept(&mut self) -> bool {
        let offered = self.phase == Phase::Offered;
        if offered {
            self.phase = Phase::Open { response_due: true };
        }
        offered
    }

    /// Ends the connection at once: RST to the guest, bytes not delivered are lost.
    pub fn abort(&mut self) {
        self.to_guest.clear();
        self.to_host.clear();
        self.phase = match self.phase {
            // The guest never heard of it.
            Phase::Requesting { sent: false } | Phase::Draining | Phase::Over => Phase::Over,
            _ => Phase::Aborted,
        };
    }

    /// Whether bytes of the host are wanted now.
    #[must_use]
    pub fn wants_host_input(&self) -> bool {
        !self.host.ended
            && !self.guest_is_deaf()
            && self.to_guest.room() > 0
            && matches!(self.phase, Phase::Requesting { .. } | Phase::Open { .. })
    }

    /// Reads once from the host's stream. `Ok(0)` is its end, which is noted.
    ///
    /// # Errors
    /// Those of `reader`.
    pub fn read_host(&mut self, reader: &mut impl Read) -> std::io::Result<usize> {
        let count = self.to_guest.fill_from(reader)?;
        self.host.ended |= count == 0;
        Ok(count)
    }

    /// The host writes no more.
    pub fn host_ended(&mut self) {
        self.host.ended = true;
    }

    /// Bytes that wait for the host.
    #[must_use]
    pub fn pending_host_output(&self) -> usize {
        self.to_host.len()
    }

    /// Writes once to the host's stream.
    ///
    /// # Errors
    /// Those of `writer`; nothing is lost then.
    pub fn write_host(&mut self, writer: &mut impl Write) -> std::io::Result<usize> {
        let count = self.to_host.drain_to(writer)?;
        self.receive.forward(u32::try_from(count).unwrap_or(u32::MAX));
        Ok(count)
    }

    /// The host reads no more: bytes for it are dropped from now on, and the guest is told.
    pub fn host_is_deaf(&mut self) {
        self.host.deaf = true;
        let lost = u32::try_from(self.to_host.len()).unwrap_or(u32::MAX);
        self.to_host.clear();
        self.receive.forward(lost);
        if self.phase == Phase::Draining {
            self.phase = Phase::Over;
        }
    }

    /// The guest will write no more and the host has every byte.
    #[must_use]
    pub fn host_output_ended(&self) -> bool {
        self.guest_shutdown & packet::SHUTDOWN_SEND != 0 && self.to_host.is_empty()
    }

    /// The guest reads no more: what the host writes goes nowhere.
    #[must_use]
    pub fn guest_is_deaf(&self) -> bool {
        self.guest_shutdown & packet::SHUTDOWN_RECEIVE != 0
    }

    /// The host's stream has nothing more to wait for and is to be closed.
    #[must_use]
    pub fn is_over_for_host(&self) -> bool {
        match self.phase {
            Phase::Aborted | Phase::Over => true,
            Phase::Draining => self.to_host.is_empty(),
            Phase::Requesting { .. } | Phase::Offered | Phase::Open { .. } => false,
        }
    }

    /// The guest ended the connection and may use its port for another.
    #[must_use]
    pub fn is_over_for_guest(&self) -> bool {
        matches!(self.phase, Phase::Draining | Phase::Over)
    }

    /// The connection has nothing more to do on either side and is to be forgotten.
    #[must_use]
    pub fn is_over(&self) -> bool {
        match self.phase {
            Phase::Over => true,
            Phase::Draining => self.to_host.is_empty(),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests;
