//! Tests: the multiplexer between ports and sockets.

use super::*;
use crate::vsock::testing::{CONFIG, data, header};

const SERVICE: u32 = 1024;

fn muxer() -> Muxer {
    let mut muxer = Muxer::new(CONFIG);
    assert!(muxer.listen(SERVICE));
    muxer
}

fn receive(muxer: &mut Muxer, header: &Header) {
    muxer.receive(header, &mut vec![0; header.len as usize].as_slice());
}

fn sent(muxer: &mut Muxer) -> Vec<Header> {
    let mut headers = Vec::new();
    let mut bytes = Vec::new();
    while muxer.send(4096, &mut bytes).unwrap().is_some() {
        headers.push(Header::read_from(&mut bytes.as_slice()).unwrap());
        bytes.clear();
    }
    headers
}

fn ops(muxer: &mut Muxer) -> Vec<Op> {
    sent(muxer).iter().map(|header| Op::from_wire(header.op).unwrap()).collect()
}

/// Does what the host's side does when it has nothing to move.
fn forget(muxer: &mut Muxer) {
    while let Some(id) = muxer.next_changed() {
        muxer.forget_if_over(id);
    }
}

#[test]
fn request_to_a_listening_port_is_offered_and_answered() {
    let mut muxer = muxer();
    receive(&mut muxer, &header(Op::Request, 7, SERVICE));
    assert_eq!(ops(&mut muxer), []);
    let id = muxer.next_offer().unwrap();
    assert_eq!(id, ConnectionId { host_port: SERVICE, guest_port: 7 });
    assert_eq!(muxer.update(id, Connection::accept), Some(true));
    let answer = sent(&mut muxer)[0];
    assert_eq!(answer.op, Op::Response.to_wire());
    assert_eq!((answer.src_cid, answer.dst_cid), (2, 3));
    assert_eq!((answer.src_port, answer.dst_port), (SERVICE, 7));
    assert_eq!(answer.buf_alloc, CONFIG.limits.buffer_bytes);
}

#[test]
fn packets_of_no_connection_are_reset_and_resets_are_not() {
    let mut muxer = muxer();
    for op in [Op::Data, Op::Shutdown, Op::CreditUpdate, Op::Response] {
        receive(&mut muxer, &header(op, 7, SERVICE));
        assert_eq!(ops(&mut muxer), [Op::Reset]);
    }
    receive(&mut muxer, &header(Op::Request, 7, 9));
    let reset = sent(&mut muxer)[0];
    assert_eq!((reset.src_port, reset.dst_port), (9, 7));
    assert_eq!((reset.src_cid, reset.dst_cid), (2, 3));
    receive(&mut muxer, &header(Op::Reset, 7, SERVICE));
    muxer.receive_malformed(&header(Op::Reset, 7, SERVICE));
    assert_eq!(ops(&mut muxer), []);
    assert!(muxer.is_empty());
}

#[test]
fn other_types_and_addresses_are_refused_and_foreign_senders_dropped() {
    let mut muxer = muxer();
    receive(&mut muxer, &Header { kind: 2, ..header(Op::Request, 7, SERVICE) });
    let reset = sent(&mut muxer)[0];
    assert_eq!((reset.kind, reset.op), (2, Op::Reset.to_wire()));
    receive(&mut muxer, &Header { dst_cid: 99, ..header(Op::Request, 7, SERVICE) });
    assert_eq!(sent(&mut muxer)[0].src_cid, 99);
    receive(&mut muxer, &Header { op: 0xffff, ..header(Op::Request, 7, SERVICE) });
    assert_eq!(ops(&mut muxer), [Op::Reset]);
    receive(&mut muxer, &Header { src_cid: 1, ..header(Op::Request, 7, SERVICE) });
    assert_eq!(ops(&mut muxer), []);
    assert!(muxer.is_empty());
}

#[test]
fn flood_of_requests_is_bounded_by_the_backlog() {
    let mut muxer = muxer();
    let mut reset = 0;
    for guest_port in 0..10_000 {
        receive(&mut muxer, &header(Op::Request, guest_port, SERVICE));
        reset += sent(&mut muxer).len();
    }
    assert_eq!(muxer.len(), CONFIG.limits.backlog);
    assert_eq!(reset, 10_000 - CONFIG.limits.backlog);
}

#[test]
fn flood_of_accepted_connections_is_bounded() {
    let mut muxer = muxer();
    for guest_port in 0..100 {
        receive(&mut muxer, &header(Op::Request, guest_port, SERVICE));
        if let Some(id) = muxer.next_offer() {
            muxer.update(id, Connection::accept);
        }
        sent(&mut muxer);
    }
    assert_eq!(muxer.len(), CONFIG.limits.connections);
    assert!(muxer.connect(1).is_err());
}

#[test]
fn guest_that_takes_no_packets_is_heard_no_more() {
    let mut muxer = muxer();
    let mut taken = 0;
    while muxer.can_receive() {
        receive(&mut muxer, &header(Op::Data, taken, 9));
        taken += 1;
        assert!(taken < 100);
    }
    assert_eq!(taken as usize, CONFIG.limits.pending_resets);
    assert_eq!(sent(&mut muxer).len(), taken as usize);
    assert!(muxer.can_receive());
}

#[test]
fn connections_that_come_and_go_leave_nothing_behind() {
    let mut muxer = muxer();
    for round in 0..1000 {
        receive(&mut muxer, &header(Op::Request, 7, SERVICE));
        let id = muxer.next_offer().unwrap();
        // The answer is never taken: the guest gives no buffers.
        assert_eq!(muxer.update(id, Connection::accept), Some(true), "round {round}");
        receive(&mut muxer, &header(Op::Reset, 7, SERVICE));
        forget(&mut muxer);
        assert!(muxer.is_empty());
    }
    assert_eq!(muxer.speakers.len() + muxer.changed.len() + muxer.offers.len(), 0);
    assert_eq!(muxer.large, 0);
}

#[test]
fn offer_that_was_reset_meanwhile_is_none() {
    let mut muxer = muxer();
    receive(&mut muxer, &header(Op::Request, 7, SERVICE));
    receive(&mut muxer, &header(Op::Reset, 7, SERVICE));
    let id = muxer.next_offer().unwrap();
    assert_eq!(muxer.update(id, Connection::accept), Some(false));
    forget(&mut muxer);
    assert_eq!(muxer.update(id, Connection::accept), None);
}

#[test]
fn port_reused_while_its_last_bytes_wait_is_refused() {
    let mut muxer = muxer();
    receive(&mut muxer, &header(Op::Request, 7, SERVICE));
    let id = muxer.next_offer().unwrap();
    muxer.update(id, Connection::accept);
    sent(&mut muxer);
    receive(&mut muxer, &data(7, SERVICE, 10));
    receive(&mut muxer, &header(Op::Reset, 7, SERVICE));
    receive(&mut muxer, &header(Op::Request, 7, SERVICE));
    assert_eq!(ops(&mut muxer), [Op::Reset]);
    assert_eq!(muxer.update(id, |connection| connection.pending_host_output()), Some(10));
}

#[test]
fn port_that_is_no_longer_listened_to_refuses_and_keeps_its_connections() {
    let mut muxer = muxer();
    receive(&mut muxer, &header(Op::Request, 7, SERVICE));
    muxer.unlisten(SERVICE);
    receive(&mut muxer, &header(Op::Request, 8, SERVICE));
    assert_eq!(ops(&mut muxer), [Op::Reset]);
    assert_eq!(muxer.len(), 1);
    assert!(muxer.listen(SERVICE));
    assert!(!muxer.listen(SERVICE));
    assert!(!muxer.listen(PORT_ANY));
}

#[test]
fn connections_of_the_host_have_ports_of_their_own() {
    let mut muxer = muxer();
    muxer.next_port = PORT_ANY - 1;
    let ids: Vec<_> = (0..3).map(|_| muxer.connect(5).unwrap()).collect();
    assert_eq!(ids[0].host_port, PORT_ANY - 1);
    assert_eq!(ids[1].host_port, FIRST_EPHEMERAL_PORT);
    assert_eq!(ops(&mut muxer), [Op::Request; 3]);
    receive(&mut muxer, &header(Op::Response, 5, ids[2].host_port));
    assert_eq!(ops(&mut muxer), []);
}

#[test]
fn connections_speak_in_turn() {
    let mut muxer = muxer();
    let ids: Vec<_> = (0..2).map(|_| muxer.connect(5).unwrap()).collect();
    sent(&mut muxer);
    for id in &ids {
        receive(&mut muxer, &header(Op::Response, 5, id.host_port));
        muxer.update(*id, |connection| connection.read_host(&mut [1; 3000].as_slice()).unwrap());
    }
    let mut bytes = Vec::new();
    let mut ports = Vec::new();
    while muxer.send(1000, &mut bytes).unwrap().is_some() {
        ports.push(Header::read_from(&mut bytes.as_slice()).unwrap().src_port);
        bytes.clear();
    }
    let (first, second) = (ids[0].host_port, ids[1].host_port);
    assert_eq!(ports, [first, second, first, second, first, second]);
}

#[test]
fn buffers_become_small_when_there_are_many_connections() {
    let mut muxer = muxer();
    let sizes: Vec<u32> = (0..4)
        .map(|_| {
            muxer.connect(5).unwrap();
            sent(&mut muxer)[0].buf_alloc
        })
        .collect();
    let limits = CONFIG.limits;
    let (large, small) = (limits.buffer_bytes, limits.small_buffer_bytes);
    assert_eq!(sizes, [large, large, small, small]);
}

#[test]
fn reset_device_forgets_connections_and_keeps_listeners() {
    let mut muxer = muxer();
    let id = muxer.connect(5).unwrap();
    assert_eq!(muxer.reset(), [id]);
    assert!(muxer.is_empty() && !muxer.has_output());
    assert_ne!(muxer.connect(5).unwrap(), id);
    receive(&mut muxer, &header(Op::Request, 7, SERVICE));
    assert!(muxer.next_offer().is_some());
}

#[test]
fn failed_write_aborts_its_connection() {
    let mut muxer = muxer();
    let id = muxer.connect(5).unwrap();
    sent(&mut muxer);
    receive(&mut muxer, &header(Op::Response, 5, id.host_port));
    muxer.update(id, |connection| connection.read_host(&mut [1; 100].as_slice()).unwrap());
    let mut short = [0; HEADER_LEN + 10];
    assert!(muxer.send(4096, &mut short.as_mut_slice()).is_err());
    assert_eq!(ops(&mut muxer), [Op::Reset]);
    forget(&mut muxer);
    assert!(muxer.is_empty());
}
