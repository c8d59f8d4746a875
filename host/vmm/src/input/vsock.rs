//! What a hostile guest says over vsock: as packets, and as rings of them.

use std::io;

use virtio_queue::Queue;

use super::guest::{Subject, play};
use super::script::Script;
use crate::Memory;
use crate::virtio::queue::{Outcome, QueueError};
use crate::vsock::connection::Connection;
use crate::vsock::device::{RX_QUEUE, process_rx, process_tx};
use crate::vsock::muxer::{ConnectionId, Muxer};
use crate::vsock::packet::{HEADER_LEN, Header, Op, TYPE_STREAM};
use crate::vsock::{Config, Limits};

const CONFIG: Config = Config {
    guest_cid: 3,
    host_cid: 2,
    limits: Limits {
        connections: 6,
        backlog: 3,
        large_connections: 2,
        buffer_bytes: 2048,
        small_buffer_bytes: 256,
        pending_resets: 4,
    },
};

/// The host of a device, which does what one byte says.
struct Host {
    muxer: Muxer,
    /// Connections that were seen.
    ids: Vec<ConnectionId>,
}

impl Host {
    fn new() -> Self {
        let mut muxer = Muxer::new(CONFIG);
        muxer.listen(1);
        Self { muxer, ids: Vec::new() }
    }

    fn act(&mut self, what: u8) {
        let amount = usize::from(what >> 4) * 100;
        match what & 0xf {
            0 => {
                self.muxer.listen(u32::from(what >> 4));
            }
            1 => self.muxer.unlisten(u32::from(what >> 4)),
            2 => {
                if let Ok(id) = self.muxer.connect(u32::from(what >> 4)) {
                    self.ids.push(id);
                }
            }
            3 | 4 => {
                if let Some(id) = self.muxer.next_offer() {
                    self.muxer.update(id, Connection::accept);
                    self.ids.push(id);
                }
            }
            5 => self.each(Connection::abort),
            6..9 => self.each(|connection| {
                // Whether it has room is the connection's to say.
                let _ = connection.read_host(&mut vec![b'x'; amount].as_slice());
            }),
            9..12 => self.each(|connection| {
                let _ = connection.write_host(&mut vec![0; amount].as_mut_slice());
            }),
            12 => {
                self.muxer.reset();
                self.ids.clear();
            }
            _ => {
                let muxer = &mut self.muxer;
                self.ids.retain(|id| !muxer.forget_if_over(*id));
                while self.muxer.next_changed().is_some() {}
            }
        }
        assert!(self.muxer.len() <= CONFIG.limits.connections, "connections are bounded");
    }

    fn each(&mut self, change: impl Fn(&mut Connection)) {
        for id in &self.ids {
            self.muxer.update(*id, &change);
        }
    }
}

/// Packets, one after another, and what the host does between them.
///
/// # Panics
/// When a header changes on its way, or a packet for the guest is larger than its buffer.
pub fn packets(bytes: &[u8]) {
    let mut script = Script::new(bytes);
    let mut host = Host::new();
    while let Some(what) = script.u8() {
        match what % 4 {
            0 | 1 => {
                let Some(header) = header(&mut script, what) else { return };
                let again = Header::read_from(&mut header.to_bytes().as_slice());
                assert_eq!(again.ok(), Some(header), "a header survives the wire");
                if host.muxer.can_receive() {
                    host.muxer.receive(&header, &mut io::Read::take(io::repeat(1), 1 << 20));
                }
            }
            2 => host.act(script.u8().unwrap_or_default()),
            _ => take_packets(&mut host.muxer, usize::from(what) * 8 + 1),
        }
    }
}

/// A header from few or from any values.
fn header(script: &mut Script<'_>, what: u8) -> Option<Header> {
    if what & 0x80 != 0 {
        return Header::read_from(&mut script.bytes(HEADER_LEN)).ok();
    }
    let ports = script.u8()?;
    Some(Header {
        src_cid: CONFIG.guest_cid,
        dst_cid: CONFIG.host_cid,
        src_port: u32::from(ports & 0xf),
        dst_port: if ports & 0x80 == 0 { u32::from(ports >> 4) } else { 1 << 30 },
        len: u32::from(script.u16()?),
        kind: TYPE_STREAM,
        op: u16::from(script.u8()? & 7),
        flags: u32::from(what >> 2 & 3),
        buf_alloc: script.length()?,
        fwd_cnt: script.length()?,
    })
}

fn take_packets(muxer: &mut Muxer, room: usize) {
    // Each speaks at most once for each byte that it may send.
    for _ in 0..100_000 {
        let mut packet = Vec::new();
        let sent = muxer.send(room, &mut packet);
        let Ok(Some(len)) = sent else { return };
        assert!(len == packet.len() && len <= HEADER_LEN + room, "a packet fits its buffer");
        let header = Header::read_from(&mut packet.as_slice());
        assert!(header.is_ok_and(|header| Op::from_wire(header.op).is_some()));
    }
    panic!("the device never stops speaking");
}

/// The same through rings.
pub fn queues(bytes: &[u8]) {
    play(bytes, &mut Host::new());
}

impl Subject for Host {
    const QUEUES: &'static [u16] = &[16, 16];

    fn turn(
        &mut self,
        index: usize,
        queue: &mut Queue,
        memory: &Memory,
    ) -> Result<Outcome, QueueError> {
        match index {
            RX_QUEUE => process_rx(&mut self.muxer, memory, queue),
            _ => process_tx(&mut self.muxer, memory, queue),
        }
    }

    fn host(&mut self, what: u8) {
        self.act(what);
    }
}
