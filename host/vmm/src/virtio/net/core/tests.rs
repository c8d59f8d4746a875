//! Tests: both queues, driven as an honest driver would and as a hostile one.

use std::collections::VecDeque;

use proptest::prelude::*;
use virtio_queue::{Queue, QueueT};

use super::header::{
    F_DATA_VALID, F_NEEDS_CSUM, GSO_NONE, GSO_TCPV4, GSO_TCPV6, Header, MIN_GSO_SIZE,
};
use super::receive::Receiver;
use super::transmit::Transmitter;
use super::*;
use crate::Memory;
use crate::virtio::testing::{self, Buffer, Descriptor, DriverQueue, MEMORY_BYTES, NEXT, WRITE};
use crate::virtio::{Outcome, QueueError};

const GUEST: Mac = Mac([2, 0, 0, 0, 0, 1]);
const ALL: Offloads = Offloads { checksum: true, tso4: true, tso6: true };
const NONE: Offloads = Offloads { checksum: false, tso4: false, tso6: false };

/// A port that is two lists.
#[derive(Default)]
struct Wire {
    incoming: VecDeque<Vec<u8>>,
    sent: Vec<Vec<u8>>,
    full: bool,
    refuses: bool,
    down: bool,
}

impl Port for Wire {
    fn receive(&mut self, buffer: &mut [u8]) -> Received {
        if self.down {
            return Received::Failed;
        }
        let Some(packet) = self.incoming.pop_front() else { return Received::Nothing };
        let len = packet.len().min(buffer.len());
        buffer[..len].copy_from_slice(&packet[..len]);
        Received::Packet(len)
    }

    fn send(&mut self, packet: &[u8]) -> Sent {
        if self.full {
            return Sent::Full;
        }
        if self.refuses {
            return Sent::Refused;
        }
        self.sent.push(packet.to_vec());
        Sent::Done
    }
}

fn frame(source: Mac, len: usize) -> Vec<u8> {
    let mut frame: Vec<u8> = (0..len).map(|at| u8::try_from(at % 251).unwrap()).collect();
    frame[6..12].copy_from_slice(&source.0);
    frame
}

fn packet(header: Header, frame: &[u8]) -> Vec<u8> {
    [&header.to_bytes(0)[..], frame].concat()
}

fn plain(len: usize) -> Vec<u8> {
    packet(Header::default(), &frame(GUEST, len))
}

/// The sending side with its driver.
struct Tx {
    memory: Memory,
    driver: DriverQueue,
    queue: Queue,
    wire: Wire,
    core: Transmitter,
}

impl Tx {
    fn new(offloads: Offloads) -> Self {
        let memory = testing::memory();
        let driver = DriverQueue::new(&memory, TX_QUEUE, QUEUE_SIZE);
        let queue = driver.device_queue();
        let mut core = Transmitter::new(Some(GUEST));
        core.start(offloads);
        Self { memory, driver, queue, wire: Wire::default(), core }
    }

    fn run(&mut self) -> Outcome {
        self.run_with(|_| true).unwrap()
    }

    fn run_with(&mut self, allow: impl FnMut(u64) -> bool) -> Result<Outcome, QueueError> {
        self.core.process(&self.memory, &mut self.queue, &mut self.wire, allow)
    }

    /// One packet in one buffer: whether it was sent. Its chain comes back in any case.
    fn sends(&mut self, packet: &[u8]) -> bool {
        let before = self.wire.sent.len();
        let buffer = self.driver.readable(packet);
        let head = self.driver.add(&[buffer]);
        self.run();
        assert_eq!(self.driver.take_used(), [(u32::from(head), 0)]);
        self.wire.sent.len() > before
    }
}

/// The receiving side with its driver.
struct Rx {
    memory: Memory,
    driver: DriverQueue,
    queue: Queue,
    wire: Wire,
    core: Receiver,
}

impl Rx {
    fn new(size: u16, mergeable: bool) -> Self {
        let memory = testing::memory();
        let driver = DriverQueue::new(&memory, RX_QUEUE, size);
        let queue = driver.device_queue();
        let mut core = Receiver::default();
        core.start(ALL, mergeable);
        Self { memory, driver, queue, wire: Wire::default(), core }
    }

    fn run(&mut self) -> Outcome {
        self.run_with(|_| true).unwrap()
    }

    fn run_with(&mut self, allow: impl FnMut(u64) -> bool) -> Result<Outcome, QueueError> {
        self.core.process(&self.memory, &mut self.queue, &mut self.wire, allow)
    }

    fn give(&mut self, len: usize) -> Buffer {
        let buffer = self.driver.writable(len);
        self.driver.add(&[buffer]);
        buffer
    }

    fn lengths(&mut self) -> Vec<u32> {
        self.driver.take_used().into_iter().map(|(_, len)| len).collect()
    }

    /// What was written to these buffers, one after the other.
    fn bytes(&mut self, buffers: &[Buffer]) -> Vec<u8> {
        let used = self.lengths();
        let parts = buffers.iter().zip(used).map(|(buffer, len)| {
            let mut bytes = self.driver.read(*buffer);
            bytes.truncate(len as usize);
            bytes
        });
        parts.collect::<Vec<_>>().concat()
    }
}

/// The packet as the guest is to see it.
fn with_buffers(mut packet: Vec<u8>, num_buffers: u16) -> Vec<u8> {
    packet[10..12].copy_from_slice(&num_buffers.to_le_bytes());
    packet
}

#[test]
fn mac_is_read_and_written_as_text() {
    let mac: Mac = serde_json::from_str("\"02:0a:Ff:00:00:01\"").unwrap();
    assert_eq!(mac, Mac([2, 10, 255, 0, 0, 1]));
    assert_eq!(serde_json::to_string(&mac).unwrap(), "\"02:0a:ff:00:00:01\"");
    let wrong = [
        "",
        "02",
        "02:0a:ff:00:00",
        "02:0a:ff:00:00:01:02",
        "2:a:ff:0:0:1",
        "+2:0a:ff:00:00:01",
        "02-0a-ff-00-00-01",
        "01:00:5e:00:00:01",
        "ff:ff:ff:ff:ff:ff",
        "00:00:00:00:00:00",
    ];
    for text in wrong {
        Mac::try_from(text.to_owned()).unwrap_err();
    }
}

#[test]
fn sent_packet_leaves_as_it_is_with_its_header() {
    let mut tx = Tx::new(ALL);
    let header = Header {
        flags: F_NEEDS_CSUM,
        gso_type: GSO_TCPV4,
        hdr_len: 54,
        gso_size: 1448,
        csum_start: 34,
        csum_offset: 16,
    };
    let sent = packet(header, &frame(GUEST, 5000));
    assert!(tx.sends(&sent));
    assert_eq!(tx.wire.sent, [sent]);
    assert_eq!((tx.core.counts().packets, tx.core.counts().bytes), (1, 5000));
}

#[test]
fn sent_packet_may_lie_in_pieces_and_indirect() {
    let mut tx = Tx::new(NONE);
    let sent = plain(200);
    for indirect in [false, true] {
        let cuts = [0, 1, 5, 12, 12, 20, 212];
        let pieces: Vec<Buffer> =
            cuts.windows(2).map(|cut| tx.driver.readable(&sent[cut[0]..cut[1]])).collect();
        if indirect {
            tx.driver.add_indirect(&pieces)
        } else {
            tx.driver.add(&pieces)
        };
        tx.run();
    }
    assert_eq!(tx.wire.sent, [sent.clone(), sent]);
}

#[test]
fn shortest_and_longest_frame_are_sent_and_no_other_lengths() {
    let mut tx = Tx::new(NONE);
    assert!(tx.sends(&plain(MIN_FRAME_LEN)));
    assert!(tx.sends(&plain(MAX_FRAME_LEN)));
    assert!(!tx.sends(&plain(MAX_FRAME_LEN + 1)));
    let short = plain(MIN_FRAME_LEN);
    for len in [0, 1, HEADER_LEN, short.len() - 1] {
        assert!(!tx.sends(&short[..len]), "{len}");
    }
    assert_eq!(tx.core.counts().malformed, 5);
}

#[test]
fn header_that_was_not_agreed_on_or_makes_no_sense_is_dropped() {
    let segments = Header {
        flags: F_NEEDS_CSUM,
        gso_type: GSO_TCPV4,
        gso_size: 100,
        csum_start: 34,
        csum_offset: 16,
        hdr_len: 54,
    };
    let nonsense = [
        (NONE, Header { flags: F_NEEDS_CSUM, csum_start: 34, ..Header::default() }),
        (NONE, segments),
        (Offloads { tso4: false, ..ALL }, segments),
        (Offloads { tso6: false, ..ALL }, Header { gso_type: GSO_TCPV6, ..segments }),
        (ALL, Header { csum_start: 99, csum_offset: 0, ..segments }),
        (ALL, Header { csum_start: u16::MAX, csum_offset: u16::MAX, ..segments }),
        (ALL, Header { gso_size: 0, ..segments }),
        (ALL, Header { gso_size: MIN_GSO_SIZE - 1, ..segments }),
        (ALL, Header { flags: 0, ..segments }),
        (ALL, Header { gso_type: GSO_TCPV4 | 0x80, ..segments }),
        (ALL, Header { gso_type: 3, ..segments }),
        (ALL, Header { gso_type: 5, ..segments }),
        (ALL, Header { gso_type: u8::MAX, ..segments }),
    ];
    for (offloads, header) in nonsense {
        let mut tx = Tx::new(offloads);
        assert!(!tx.sends(&packet(header, &frame(GUEST, 100))), "{header:?}");
        assert_eq!(tx.core.counts().malformed, 1);
    }
    let mut tx = Tx::new(ALL);
    let last = Header { csum_start: 82, csum_offset: 16, ..segments };
    let least = Header { gso_size: MIN_GSO_SIZE, ..segments };
    for header in [last, least] {
        assert!(tx.sends(&packet(header, &frame(GUEST, 100))), "{header:?}");
    }
}

#[test]
fn fields_without_a_meaning_do_not_reach_the_host() {
    let mut tx = Tx::new(ALL);
    let junk = Header { flags: !F_NEEDS_CSUM, gso_type: GSO_NONE, ..Header::from_bytes([9; 12]) };
    assert!(tx.sends(&packet(junk, &frame(GUEST, 60))));
    assert_eq!(tx.wire.sent, [plain(60)]);
    let hint = Header {
        flags: F_NEEDS_CSUM,
        gso_type: GSO_TCPV6,
        hdr_len: u16::MAX,
        gso_size: 9,
        csum_start: 20,
        csum_offset: 9,
    };
    assert!(tx.sends(&packet(hint, &frame(GUEST, 60))));
    let sent = Header::from_bytes(*tx.wire.sent[1].first_chunk().unwrap());
    assert_eq!(sent, Header { hdr_len: 60, ..hint });
}

#[test]
fn frames_of_another_sender_are_dropped_unless_that_is_allowed() {
    let other = packet(Header::default(), &frame(Mac([2, 0, 0, 0, 0, 2]), 60));
    let mut tx = Tx::new(NONE);
    assert!(!tx.sends(&other));
    assert_eq!((tx.core.counts().spoofed, tx.core.counts().malformed), (1, 0));
    assert!(tx.sends(&plain(60)));
    tx.core = Transmitter::new(None);
    assert!(tx.sends(&other));
}

#[test]
fn refused_packet_is_given_back_and_counted() {
    let mut tx = Tx::new(NONE);
    tx.wire.refuses = true;
    assert!(!tx.sends(&plain(60)));
    tx.wire.refuses = false;
    assert!(tx.sends(&plain(60)));
    assert_eq!((tx.core.counts().refused, tx.core.counts().packets), (1, 1));
}

#[test]
fn packet_waits_for_a_full_port_and_pays_the_limit_once() {
    let mut tx = Tx::new(NONE);
    let buffer = tx.driver.readable(&plain(60));
    tx.driver.add(&[buffer]);
    tx.wire.full = true;
    let mut paid = Vec::new();
    for _ in 0..3 {
        assert!(
            !tx.run_with(|bytes| {
                paid.push(bytes);
                true
            })
            .unwrap()
            .progress
        );
    }
    assert!(tx.core.is_blocked());
    assert!(tx.driver.take_used().is_empty());
    tx.wire.full = false;
    assert!(
        tx.run_with(|bytes| {
            paid.push(bytes);
            true
        })
        .unwrap()
        .progress
    );
    assert_eq!(tx.wire.sent, [plain(60)]);
    assert_eq!(paid, [60]);
    assert!(!tx.core.is_blocked());
}

#[test]
fn limit_holds_sent_packets_back_in_their_order() {
    let mut tx = Tx::new(NONE);
    for len in [60, 61, 62] {
        let buffer = tx.driver.readable(&plain(len));
        tx.driver.add(&[buffer]);
    }
    tx.run_with(|bytes| bytes == 60).unwrap();
    assert_eq!(tx.driver.take_used().len(), 1);
    tx.run_with(|_| false).unwrap();
    assert!(tx.driver.take_used().is_empty());
    tx.run();
    assert_eq!(tx.wire.sent, [plain(60), plain(61), plain(62)]);
}

#[test]
fn sent_chain_that_makes_no_sense_is_given_back() {
    let mut tx = Tx::new(NONE);
    let good = tx.driver.readable(&plain(60));
    let end = MEMORY_BYTES as u64;
    let whole = Descriptor { addr: good.addr, len: good.len, flags: 0, next: 0 };
    let wrong = [
        // Writable, out of memory, over its end, around the end of the address space, 4 GiB.
        vec![Descriptor { flags: WRITE, ..whole }],
        vec![Descriptor { addr: end, ..whole }],
        vec![Descriptor { addr: end - 10, ..whole }],
        vec![Descriptor { addr: u64::MAX - 10, ..whole }],
        vec![Descriptor { len: u32::MAX, ..whole }],
        // A whole packet that goes on: to itself, to nowhere, to a writable piece.
        vec![Descriptor { flags: NEXT, next: 0, ..whole }],
        vec![Descriptor { flags: NEXT, next: QUEUE_SIZE, ..whole }],
        vec![Descriptor { flags: NEXT, next: 1, ..whole }, Descriptor { flags: WRITE, ..whole }],
        // Lengths that overflow together.
        vec![
            Descriptor { len: u32::MAX, flags: NEXT, next: 1, ..whole },
            Descriptor { len: u32::MAX, ..whole },
        ],
    ];
    for (count, descriptors) in (1..).zip(wrong) {
        for (index, descriptor) in (0..).zip(&descriptors) {
            tx.driver.write_descriptor(index, *descriptor);
        }
        tx.driver.publish(0);
        tx.run();
        assert_eq!(tx.driver.take_used(), [(0, 0)], "{descriptors:x?}");
        assert_eq!(tx.core.counts().malformed, count, "{descriptors:x?}");
    }
    assert!(tx.wire.sent.is_empty());
    assert!(tx.sends(&plain(60)));
}

#[test]
fn sent_chain_of_too_many_pieces_is_given_back() {
    let mut tx = Tx::new(NONE);
    let bytes = plain(1000);
    let whole = tx.driver.readable(&bytes);
    let piece = |at: usize| Buffer { addr: whole.addr + at as u64, len: 1, ..whole };
    let rest = |at: usize| Buffer { len: whole.len - u32::try_from(at).unwrap(), ..piece(at) };
    for (pieces, sent) in [(MAX_CHAIN_LEN, 1), (MAX_CHAIN_LEN + 1, 1)] {
        let mut chain: Vec<Buffer> = (0..pieces - 1).map(piece).collect();
        chain.push(rest(pieces - 1));
        tx.driver.add_indirect(&chain);
        tx.run();
        assert_eq!(tx.wire.sent.len(), sent);
    }
    assert_eq!(tx.core.counts().malformed, 1);
}

#[test]
fn more_packets_than_a_pass_takes_are_left_for_another() {
    let mut tx = Tx::new(NONE);
    let buffer = tx.driver.readable(&plain(60));
    for _ in 0..QUEUE_SIZE {
        tx.driver.add(&[buffer]);
    }
    let outcome = tx.run();
    assert!(outcome.progress && outcome.more);
    assert_eq!(tx.wire.sent.len(), usize::from(QUEUE_SIZE));
}

#[test]
fn rings_that_lie_break_the_queue() {
    for ring in ["index", "head"] {
        let (mut tx, mut rx) = (Tx::new(NONE), Rx::new(16, true));
        rx.wire.incoming.push_back(plain(60));
        match ring {
            "index" => {
                tx.driver.set_avail_idx(QUEUE_SIZE + 1);
                rx.driver.set_avail_idx(17);
            }
            _ => {
                tx.driver.publish(QUEUE_SIZE);
                rx.driver.publish(16);
            }
        }
        tx.run_with(|_| true).unwrap_err();
        rx.run_with(|_| true).unwrap_err();
    }
}

#[test]
fn received_packet_lies_in_one_buffer() {
    for mergeable in [false, true] {
        let mut rx = Rx::new(16, mergeable);
        let buffer = rx.give(2000);
        rx.wire.incoming.push_back(plain(1514));
        assert!(rx.run().progress);
        assert_eq!(rx.bytes(&[buffer]), with_buffers(plain(1514), 1));
        assert_eq!((rx.core.counts().packets, rx.core.counts().bytes), (1, 1514));
    }
}

#[test]
fn received_packet_is_spread_over_buffers_that_are_merged() {
    let mut rx = Rx::new(64, true);
    let buffers: Vec<Buffer> = [1500, 12, 100, 1500, 1500].map(|len| rx.give(len)).to_vec();
    rx.wire.incoming.push_back(plain(3000));
    rx.wire.incoming.push_back(plain(60));
    rx.run();
    let bytes = rx.bytes(&buffers);
    assert_eq!(bytes[..3012], with_buffers(plain(3000), 4));
    assert_eq!(bytes[3012..], with_buffers(plain(60), 1));
    assert_eq!(rx.driver.take_used(), []);
}

#[test]
fn received_packet_may_lie_in_pieces_of_a_chain() {
    for mergeable in [false, true] {
        let mut rx = Rx::new(16, mergeable);
        let pieces: Vec<Buffer> = [1, 11, 3, 0, 60].map(|len| rx.driver.writable(len)).to_vec();
        rx.driver.add_indirect(&pieces);
        rx.wire.incoming.push_back(plain(60));
        rx.run();
        assert_eq!(rx.lengths(), [72]);
        let bytes = pieces.iter().flat_map(|piece| rx.driver.read(*piece)).take(72);
        assert_eq!(bytes.collect::<Vec<_>>(), with_buffers(plain(60), 1));
    }
}

#[test]
fn packet_waits_until_there_are_buffers_for_all_of_it() {
    let mut rx = Rx::new(16, true);
    let mut buffers = vec![rx.give(1500)];
    rx.wire.incoming.push_back(plain(4000));
    rx.wire.incoming.push_back(plain(60));
    for _ in 0..2 {
        assert!(!rx.run().progress);
        assert_eq!(rx.driver.take_used(), []);
        buffers.push(rx.give(1500));
    }
    buffers.push(rx.give(1500));
    assert!(rx.run().progress);
    let bytes = rx.bytes(&buffers);
    assert_eq!(bytes[..4012], with_buffers(plain(4000), 3));
    assert_eq!(bytes[4012..], with_buffers(plain(60), 1));
    assert_eq!(rx.core.counts().starved, 2);
}

#[test]
fn starved_queue_asks_for_a_kick_at_the_next_buffer() {
    let mut rx = Rx::new(16, true);
    rx.queue.set_event_idx(true);
    rx.give(100);
    rx.give(100);
    rx.wire.incoming.push_back(plain(500));
    rx.run();
    // Of two chains that stay, the driver has told; it is to tell of the third.
    assert_eq!(rx.driver.avail_event(), 2);
    assert_eq!(rx.queue.next_avail(), 0);
}

#[test]
fn packets_go_on_when_a_full_port_meets_buffers_at_last() {
    let mut rx = Rx::new(4, false);
    for len in 60..70 {
        rx.wire.incoming.push_back(plain(len));
    }
    assert!(!rx.run().progress);
    let mut seen = Vec::new();
    for _ in 0..3 {
        let buffers: Vec<Buffer> = (0..4).map(|_| rx.give(200)).collect();
        rx.run();
        seen.extend(rx.bytes(&buffers));
    }
    let expected: Vec<u8> = (60..70).flat_map(|len| with_buffers(plain(len), 1)).collect();
    assert_eq!(seen, expected);
}

#[test]
fn ring_of_one_carries_packets_and_drops_what_can_never_fit() {
    for mergeable in [false, true] {
        let mut rx = Rx::new(1, mergeable);
        rx.wire.incoming.extend([plain(60), plain(1600), plain(61)]);
        for expected in [72, 0, 73] {
            rx.give(1526);
            rx.run();
            assert_eq!(rx.lengths(), [expected]);
        }
        assert_eq!(rx.core.counts().too_small, 1);
        assert_eq!(rx.core.counts().packets, 2);
    }
}

#[test]
fn packet_too_long_for_its_only_chain_is_dropped() {
    let mut rx = Rx::new(16, false);
    rx.give(100);
    rx.give(200);
    rx.wire.incoming.extend([plain(150), plain(60)]);
    rx.run();
    assert_eq!(rx.lengths(), [0, 72]);
    assert_eq!(rx.core.counts().too_small, 1);
}

#[test]
fn chains_that_take_nothing_are_given_back_and_the_packet_stays() {
    for mergeable in [false, true] {
        let mut rx = Rx::new(16, mergeable);
        let end = MEMORY_BYTES as u64;
        let good = rx.driver.writable(200);
        let readable = Buffer { writable: false, ..good };
        let chains = [
            vec![Buffer { len: 0, ..good }],
            vec![Buffer { len: 11, ..good }],
            vec![readable],
            vec![readable, good],
            vec![Buffer { addr: end, ..good }],
            vec![Buffer { addr: u64::MAX - 10, ..good }],
        ];
        for chain in &chains {
            rx.driver.add(chain);
        }
        rx.driver.add(&[good]);
        rx.wire.incoming.push_back(plain(60));
        rx.run();
        assert_eq!(rx.lengths(), [0, 0, 0, 0, 0, 0, 72]);
        assert_eq!(rx.core.counts().malformed, 6);
        assert_eq!(rx.driver.read(good)[..72], with_buffers(plain(60), 1));
    }
}

#[test]
fn chain_that_takes_nothing_among_others_gives_all_of_them_back() {
    let mut rx = Rx::new(16, true);
    let buffers: Vec<Buffer> = [100, 0, 100, 100].map(|len| rx.give(len)).to_vec();
    rx.wire.incoming.push_back(plain(150));
    rx.run();
    let lengths = rx.lengths();
    assert_eq!(lengths, [0, 0, 100, 62]);
    let bytes = [rx.driver.read(buffers[2]), rx.driver.read(buffers[3])].concat();
    assert_eq!(bytes[..162], with_buffers(plain(150), 2));
}

#[test]
fn kinds_that_this_driver_cannot_take_are_dropped() {
    let segments = Header {
        flags: F_NEEDS_CSUM,
        gso_type: GSO_TCPV4,
        gso_size: 100,
        csum_start: 34,
        ..Header::default()
    };
    let packets = [
        packet(segments, &frame(GUEST, 60)),
        packet(Header { gso_type: GSO_NONE, ..segments }, &frame(GUEST, 60)),
        packet(Header { gso_type: 3, ..Header::default() }, &frame(GUEST, 60)),
        packet(Header { flags: F_DATA_VALID, ..Header::default() }, &frame(GUEST, 60)),
    ];
    for (offloads, taken) in
        [(ALL, vec![0, 1, 3]), (Offloads { checksum: true, ..NONE }, vec![1, 3]), (NONE, vec![3])]
    {
        let mut rx = Rx::new(16, false);
        rx.core.start(offloads, false);
        let buffers: Vec<Buffer> = (0..4).map(|_| rx.give(100)).collect();
        rx.wire.incoming.extend(packets.clone());
        rx.run();
        let mut expected: Vec<u8> =
            taken.iter().flat_map(|&at| with_buffers(packets[at].clone(), 1)).collect();
        if offloads == NONE {
            // No flag without GUEST_CSUM.
            expected[0] = 0;
        }
        assert_eq!(rx.bytes(&buffers), expected, "{offloads:?}");
        assert_eq!(rx.core.counts().unfit, 4 - taken.len() as u64);
    }
}

#[test]
fn received_lengths_that_no_frame_has_are_dropped() {
    let mut rx = Rx::new(256, true);
    for _ in 0..60 {
        rx.give(2000);
    }
    let short = plain(MIN_FRAME_LEN);
    rx.wire.incoming.extend([Vec::new(), short[..11].to_vec(), short[..25].to_vec()]);
    rx.wire.incoming.push_back(plain(MAX_FRAME_LEN + 1));
    rx.wire.incoming.push_back(plain(MAX_FRAME_LEN));
    rx.run();
    assert_eq!(rx.core.counts().unfit, 4);
    assert_eq!(rx.lengths().iter().sum::<u32>() as usize, MAX_PACKET_LEN);
}

#[test]
fn limit_holds_received_packets_back_and_is_paid_once() {
    let mut rx = Rx::new(4, false);
    rx.wire.incoming.extend([plain(60), plain(61)]);
    rx.give(200);
    rx.run_with(|_| false).unwrap();
    assert!(rx.lengths().is_empty());
    let mut paid = Vec::new();
    let mut allow = |bytes| {
        paid.push(bytes);
        true
    };
    // The second one is paid for, and waits for a buffer.
    rx.run_with(&mut allow).unwrap();
    assert_eq!(rx.lengths(), [72]);
    rx.give(200);
    rx.run_with(&mut allow).unwrap();
    assert_eq!(rx.lengths(), [73]);
    assert_eq!(paid, [60, 61]);
}

#[test]
fn a_new_driver_gets_nothing_of_the_old_one() {
    let mut rx = Rx::new(4, false);
    rx.wire.incoming.extend([plain(60), plain(61)]);
    rx.run();
    rx.core.start(ALL, false);
    rx.give(200);
    rx.run();
    assert_eq!(rx.lengths(), [73]);
}

#[test]
fn port_that_fails_costs_one_try_a_turn() {
    let mut rx = Rx::new(4, false);
    rx.give(200);
    rx.wire.down = true;
    assert_eq!(rx.run(), Outcome::default());
    assert_eq!(rx.core.counts().failed, 1);
}

#[test]
fn flood_of_packets_that_are_dropped_ends_the_pass() {
    let mut rx = Rx::new(4, false);
    rx.give(200);
    rx.wire.incoming.extend((0..100).map(|_| vec![0; 5]));
    assert!(rx.run().more);
    assert_eq!(rx.core.counts().unfit, 4);
}

#[test]
fn merged_chains_wrap_around_the_rings_and_the_indexes() {
    let mut rx = Rx::new(4, true);
    rx.driver.skip_to(u16::MAX - 1, &mut rx.queue);
    for round in 0..8 {
        let buffers: Vec<Buffer> = (0..3).map(|_| rx.give(100)).collect();
        rx.wire.incoming.push_back(plain(250 + round));
        rx.run();
        assert_eq!(rx.bytes(&buffers), with_buffers(plain(250 + round), 3));
    }
}

#[test]
fn interrupt_is_wanted_for_an_event_inside_of_merged_chains() {
    for (event, wanted) in [(0, true), (1, true), (2, true), (3, false), (u16::MAX, false)] {
        let mut rx = Rx::new(16, true);
        rx.queue.set_event_idx(true);
        rx.driver.set_used_event(event);
        for _ in 0..3 {
            rx.give(100);
        }
        rx.wire.incoming.push_back(plain(250));
        assert_eq!(rx.run().notify, wanted, "{event}");
    }
}

proptest! {
    /// Whatever buffers a driver gives, in whatever portions: packets arrive whole and in order, or
    /// are counted as dropped.
    #[test]
    fn packets_arrive_whole_and_in_order(
        mergeable: bool,
        packets in prop::collection::vec(14usize..3000, 1..12),
        buffers in prop::collection::vec(0usize..2500, 1..60),
        portion in 1usize..8,
    ) {
        let mut rx = Rx::new(16, mergeable);
        rx.wire.incoming.extend(packets.iter().map(|len| plain(*len)));
        let mut arrived = Vec::new();
        for portion in buffers.chunks(portion) {
            let mut waiting: VecDeque<Buffer> = portion.iter().map(|len| rx.give(*len)).collect();
            while !waiting.is_empty() {
                rx.run();
                let used = rx.driver.take_used();
                if used.is_empty() {
                    break;
                }
                for (head, len) in used {
                    prop_assert!(head < 16);
                    let buffer = waiting.pop_front();
                    arrived.push((buffer, len));
                }
            }
            if !waiting.is_empty() {
                // They stay in the queue; this driver gives no more of them.
                break;
            }
        }
        let mut bytes = Vec::new();
        let mut whole = Vec::new();
        let mut missing = 0;
        for (buffer, len) in arrived.into_iter().filter(|(_, len)| *len > 0) {
            let Some(buffer) = buffer else { continue };
            bytes.extend(&rx.driver.read(buffer)[..len as usize]);
            if missing == 0 {
                missing = u16::from_le_bytes([bytes[10], bytes[11]]);
            }
            missing -= 1;
            if missing == 0 {
                bytes[10..12].fill(0);
                whole.push(std::mem::take(&mut bytes));
            }
        }
        prop_assert_eq!(missing, 0);
        prop_assert_eq!(whole.len() as u64, rx.core.counts().packets);
        let mut expected = packets.iter().map(|len| plain(*len));
        for packet in &whole {
            prop_assert!(expected.any(|sent| sent == *packet), "not sent, or out of order");
        }
    }

    #[test]
    fn descriptors_of_any_kind_are_survived(
        table in prop::collection::vec((0u64..0x200_0000, any::<u32>(), 0u16..8, 0u16..20), 16),
        heads in prop::collection::vec(0u16..18, 0..16),
        mergeable: bool,
    ) {
        let (mut tx, mut rx) = (Tx::new(ALL), Rx::new(16, mergeable));
        rx.wire.incoming.extend([plain(60), plain(60_000), plain(1000)]);
        for driver in [&mut tx.driver, &mut rx.driver] {
            for (index, (addr, len, flags, next)) in (0..).zip(&table) {
                let (addr, len, flags, next) = (*addr, *len >> 12, *flags, *next);
                driver.write_descriptor(index, Descriptor { addr, len, flags, next });
            }
            heads.iter().for_each(|head| driver.publish(*head));
        }
        let _ = tx.run_with(|_| true);
        let _ = rx.run_with(|_| true);
    }

    #[test]
    fn header_for_the_host_is_one_that_a_kernel_takes(bytes: [u8; 12], len in 14usize..70_000) {
        if let Ok(header) = Header::from_bytes(bytes).sent(len, ALL) {
            prop_assert!(header.flags & !F_NEEDS_CSUM == 0);
            let field = usize::from(header.csum_start) + usize::from(header.csum_offset);
            prop_assert!(header.flags == 0 || field + 2 <= len);
            prop_assert!(usize::from(header.hdr_len) <= len);
            prop_assert!(header.gso_type == GSO_NONE || header.gso_size >= MIN_GSO_SIZE);
            prop_assert_eq!(header.sent(len, ALL), Ok(header));
        }
    }
}
