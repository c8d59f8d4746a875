//! Tests: the device, driven as a hostile guest would.

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use virtio_queue::QueueT;

use super::*;
use crate::vsock::connection::Connection;
use crate::vsock::muxer::ConnectionId;
use crate::vsock::packet::Op;
use crate::vsock::testing::{Bench, CONFIG, MEMORY_BYTES, NEXT, QUEUE_SIZE, WRITE, data, header};

const SERVICE: u32 = 1024;
const ID: ConnectionId = ConnectionId { host_port: SERVICE, guest_port: 7 };

/// A bench with one open connection.
fn connected() -> Bench {
    let mut bench = Bench::new();
    bench.muxer.listen(SERVICE);
    bench.send_as(&header(Op::Request, 7, SERVICE), &[]);
    let id = bench.muxer.next_offer().unwrap();
    assert_eq!(id, ID);
    bench.muxer.update(id, Connection::accept);
    assert_eq!(bench.receive_ops(), [Op::Response]);
    bench
}

fn host_reads(bench: &mut Bench) -> Vec<u8> {
    let read = bench.muxer.update(ID, |connection| {
        let mut bytes = Vec::new();
        while connection.pending_host_output() > 0 {
            connection.write_host(&mut bytes).unwrap();
        }
        bytes
    });
    read.unwrap()
}

fn host_writes(bench: &mut Bench, mut bytes: &[u8]) {
    bench.muxer.update(ID, |connection| connection.read_host(&mut bytes).unwrap());
}

#[test]
fn payload_passes_both_ways() {
    let mut bench = connected();
    bench.send_as(&data(7, SERVICE, 5), b"hello");
    assert_eq!(host_reads(&mut bench), b"hello");
    host_writes(&mut bench, b"world");
    let (header, payload) = bench.receive().unwrap();
    assert_eq!((header.op, header.len), (Op::Data.to_wire(), 5));
    assert_eq!(payload, b"world");
    assert_eq!(header.fwd_cnt, 5);
    assert!(bench.receive().is_none());
}

#[test]
fn header_and_payload_may_lie_in_pieces() {
    let mut bench = connected();
    let bytes = [&data(7, SERVICE, 5).to_bytes()[..], b"hello"].concat();
    let mut start = 0;
    for (index, len) in [(0, 1u32), (1, 0), (2, 40), (3, 6), (4, 2)] {
        let part = &bytes[start..start + len as usize];
        start += len as usize;
        let address = bench.tx.buffer(index);
        bench.memory.write_slice(part, GuestAddress(address)).unwrap();
        let flags = if index == 4 { 0 } else { NEXT };
        bench.tx.write_descriptor(&bench.memory, index, (address, len, flags, index + 1));
    }
    bench.tx.publish(&bench.memory, 0);
    bench.process_tx().unwrap();
    assert_eq!(host_reads(&mut bench), b"hello");
}

#[test]
fn length_beyond_the_buffer_aborts_the_connection() {
    let mut bench = connected();
    bench.send_as(&data(7, SERVICE, 6), b"hello");
    assert_eq!(bench.receive_ops(), [Op::Reset]);
    let mut bench = connected();
    let huge = Header { len: u32::MAX, ..data(7, SERVICE, 0) };
    bench.send_as(&huge, b"hello");
    assert_eq!(bench.receive_ops(), [Op::Reset]);
    // Of no connection: answered, too.
    bench.send_as(&Header { src_port: 8, ..huge }, b"hello");
    assert_eq!(bench.receive_ops(), [Op::Reset]);
}

#[test]
fn short_header_is_given_back_and_forgotten() {
    let mut bench = connected();
    for len in [0, 1, 43] {
        bench.tx.add_buffer(&bench.memory, len, 0);
    }
    assert!(bench.process_tx().unwrap().progress);
    assert_eq!(bench.tx.take_used(&bench.memory).len(), 3);
    assert_eq!(bench.receive_ops(), []);
}

#[test]
fn chain_that_loops_is_given_back_and_forgotten() {
    let mut bench = connected();
    let address = bench.tx.buffer(0);
    bench.tx.write_descriptor(&bench.memory, 0, (address, 1, NEXT, 1));
    bench.tx.write_descriptor(&bench.memory, 1, (address, 1, NEXT, 0));
    bench.tx.publish(&bench.memory, 0);
    bench.process_tx().unwrap();
    assert_eq!(bench.tx.take_used(&bench.memory), [(0, 0)]);
}

#[test]
fn packet_in_a_chain_that_is_cut_off_is_no_packet() {
    let mut bench = connected();
    let bytes = [&data(7, SERVICE, 5).to_bytes()[..], b"hello"].concat();
    let len = u32::try_from(bytes.len()).unwrap();
    for (index, next) in [(0, QUEUE_SIZE), (1, 2)] {
        let address = bench.tx.buffer(index);
        bench.memory.write_slice(&bytes, GuestAddress(address)).unwrap();
        bench.tx.write_descriptor(&bench.memory, index, (address, len, NEXT, next));
        // What the guest reads does not come after what it writes, nor does it belong here.
        bench.tx.write_descriptor(&bench.memory, 2, (bench.tx.buffer(2), 4, WRITE, 0));
        bench.tx.publish(&bench.memory, index);
    }
    let before = bench.muxer.traffic().malformed;
    bench.process_tx().unwrap();
    assert_eq!(bench.muxer.traffic().malformed, before + 2);
    assert_eq!(host_reads(&mut bench), b"");
}

#[test]
fn chain_of_too_many_pieces_is_given_back_and_forgotten() {
    const INDIRECT: u16 = 4;
    let mut bench = connected();
    let (table, pieces) = (0x8_0000u64, 1000u32);
    for index in 0..pieces {
        let at = table + u64::from(index) * 16;
        bench.memory.write_obj(bench.tx.buffer(0), GuestAddress(at)).unwrap();
        bench.memory.write_obj(1u32, GuestAddress(at + 8)).unwrap();
        bench.memory.write_obj(NEXT, GuestAddress(at + 12)).unwrap();
        bench.memory.write_obj(u16::try_from(index + 1).unwrap(), GuestAddress(at + 14)).unwrap();
    }
    for queue in [&mut bench.tx, &mut bench.rx] {
        queue.write_descriptor(&bench.memory, 0, (table, pieces * 16, INDIRECT, 0));
        queue.publish(&bench.memory, 0);
    }
    bench.process_tx().unwrap();
    assert_eq!(bench.tx.take_used(&bench.memory), [(0, 0)]);
    host_writes(&mut bench, b"hello");
    bench.process_rx().unwrap();
    assert_eq!(bench.rx.take_used(&bench.memory), [(0, 0)]);
}

#[test]
fn buffers_outside_of_memory_are_given_back_and_nothing_is_lost() {
    let mut bench = connected();
    host_writes(&mut bench, b"hello");
    let end = MEMORY_BYTES as u64;
    for (index, (address, len)) in
        (0..).zip([(end, 100), (end - 10, 100), (u64::MAX, 100), (0, u32::MAX)])
    {
        bench.rx.write_descriptor(&bench.memory, index, (address, len, WRITE, 0));
        bench.rx.publish(&bench.memory, index);
        bench.tx.write_descriptor(&bench.memory, index, (address, len, 0, 0));
        bench.tx.publish(&bench.memory, index);
    }
    bench.process_rx().unwrap();
    bench.process_tx().unwrap();
    assert_eq!(bench.rx.take_used(&bench.memory), [(0, 0), (1, 0), (2, 0), (3, 0)]);
    assert_eq!(bench.tx.take_used(&bench.memory).len(), 4);
    let mut fresh = bench.rx.device_queue();
    fresh.set_next_avail(4);
    fresh.set_next_used(4);
    bench.rx_queue = fresh;
    bench.rx.write_descriptor(&bench.memory, 0, (bench.rx.buffer(0), 100, WRITE, 0));
    bench.rx.publish(&bench.memory, 0);
    bench.process_rx().unwrap();
    assert_eq!(bench.rx.take_used(&bench.memory), [(0, 49)]);
}

#[test]
fn buffers_without_room_for_payload_are_given_back() {
    let mut bench = connected();
    host_writes(&mut bench, b"hello");
    for len in [0, 1, 43, 44] {
        assert_eq!(bench.receive_into(len), None);
    }
    let (header, payload) = bench.receive_into(45).unwrap();
    assert_eq!((header.len, payload.as_slice()), (1, &b"h"[..]));
    assert_eq!(bench.receive().unwrap().1, b"ello");
}

#[test]
fn buffer_that_the_device_may_not_write_is_given_back() {
    let mut bench = connected();
    host_writes(&mut bench, b"hello");
    let index = bench.rx.add_buffer(&bench.memory, 4096, 0);
    bench.process_rx().unwrap();
    assert_eq!(bench.rx.take_used(&bench.memory), [(u32::from(index), 0)]);
    assert_eq!(bench.receive().unwrap().1, b"hello");
}

#[test]
fn packet_in_a_buffer_of_the_wrong_direction_is_no_packet() {
    let mut bench = connected();
    let index = bench.tx.add_buffer(&bench.memory, 100, WRITE);
    bench
        .memory
        .write_slice(&data(7, SERVICE, 5).to_bytes(), GuestAddress(bench.tx.buffer(index)))
        .unwrap();
    bench.process_tx().unwrap();
    assert_eq!(host_reads(&mut bench), b"");
}

#[test]
fn ring_that_claims_more_than_its_size_is_broken() {
    let mut bench = connected();
    bench.tx.set_avail_idx(&bench.memory, 1000);
    assert!(bench.process_tx().is_err());
    host_writes(&mut bench, b"hello");
    bench.rx.set_avail_idx(&bench.memory, 1000);
    assert!(bench.process_rx().is_err());
}

#[test]
fn head_that_is_no_descriptor_breaks_the_queue() {
    let mut bench = connected();
    bench.tx.publish(&bench.memory, QUEUE_SIZE);
    assert!(bench.process_tx().is_err());
}

#[test]
fn guest_that_takes_nothing_is_left_with_its_packets() {
    let mut bench = connected();
    for port in 0..QUEUE_SIZE {
        let index = bench.tx.add_buffer(&bench.memory, 44, 0);
        let packet = header(Op::Data, u32::from(port) + 100, SERVICE);
        bench.memory.write_slice(&packet.to_bytes(), GuestAddress(bench.tx.buffer(index))).unwrap();
    }
    bench.process_tx().unwrap();
    let taken = bench.tx.take_used(&bench.memory).len();
    assert_eq!(taken, CONFIG.limits.pending_resets);
    assert!(!bench.process_tx().unwrap().progress);
    assert_eq!(bench.receive_ops().len(), taken);
    assert!(bench.process_tx().unwrap().progress);
}

#[test]
fn idle_receive_buffers_are_left_alone() {
    let mut bench = connected();
    bench.rx.add_buffer(&bench.memory, 4096, WRITE);
    assert_eq!(bench.process_rx().unwrap(), Outcome::default());
    assert_eq!(bench.rx.take_used(&bench.memory), []);
}

#[test]
fn guest_is_interrupted_only_when_it_asked_to_be() {
    let mut bench = connected();
    bench.tx_queue.set_event_idx(true);
    let used_event = bench.tx.available() + 4 + u64::from(QUEUE_SIZE) * 2;
    // Not before the third packet from now; the request was the first of all.
    bench.memory.write_obj(3u16, GuestAddress(used_event)).unwrap();
    let mut interrupts = Vec::new();
    for _ in 0..4 {
        bench.tx.add_buffer(&bench.memory, 44, 0);
        interrupts.push(bench.process_tx().unwrap().notify);
    }
    assert_eq!(interrupts, [false, false, true, false]);
}

#[derive(Debug, Clone)]
struct Hostile {
    descriptors: Vec<(u64, u32, u16, u16)>,
    headers: Vec<(u16, u16, u32, u32, u32, u32)>,
    heads: Vec<u16>,
}

fn hostile() -> impl Strategy<Value = Hostile> {
    let address = prop_oneof![
        3 => 0u64..0x3f_0000,
        1 => any::<u64>(),
        1 => MEMORY_BYTES as u64 - 64..MEMORY_BYTES as u64 + 64,
    ];
    let len = prop_oneof![3 => 0u32..200, 1 => Just(44), 1 => any::<u32>()];
    let descriptor = (address, len, 0u16..8, 0u16..QUEUE_SIZE + 2);
    let header = (0u16..9, 0u16..3, 0u32..3, 0u32..100, any::<u32>(), any::<u32>());
    (
        proptest::collection::vec(descriptor, usize::from(QUEUE_SIZE)),
        proptest::collection::vec(header, 16),
        proptest::collection::vec(0..QUEUE_SIZE + 1, 1..40),
    )
        .prop_map(|(descriptors, headers, heads)| Hostile { descriptors, headers, heads })
}

proptest! {
    /// Whatever the rings and the packets say: no panic, no endless loop, no growth.
    #[test]
    fn hostile_guest_is_survived(guest in hostile()) {
        let mut bench = connected();
        for (index, (op, kind, port, len, buf_alloc, fwd_cnt)) in (0u64..).zip(&guest.headers) {
            let header = Header {
                len: *len, kind: *kind, buf_alloc: *buf_alloc, fwd_cnt: *fwd_cnt,
                ..header(Op::Data, 7 + port, SERVICE + port)
            };
            let bytes = Header { op: *op, ..header }.to_bytes();
            bench.memory.write_slice(&bytes, GuestAddress(index * 0x3_0000)).unwrap();
        }
        for (index, descriptor) in (0..).zip(&guest.descriptors) {
            bench.tx.write_descriptor(&bench.memory, index, *descriptor);
            let (address, len, flags, next) = *descriptor;
            bench.rx.write_descriptor(&bench.memory, index, (address, len, flags | WRITE, next));
        }
        for (turn, head) in guest.heads.iter().enumerate() {
            if turn % 2 == 0 {
                bench.tx.publish(&bench.memory, *head);
            } else {
                bench.rx.publish(&bench.memory, *head);
            }
            bench.muxer.update(ID, |connection| connection.read_host(&mut [1; 64].as_slice()));
            let _ = bench.process_tx();
            let _ = bench.process_rx();
            while let Some(id) = bench.muxer.next_changed() {
                bench.muxer.forget_if_over(id);
            }
            prop_assert!(bench.muxer.len() <= CONFIG.limits.connections);
        }
    }
}
