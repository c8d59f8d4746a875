//! Tests: one connection, packet by packet.

use super::*;
use crate::vsock::packet::{SHUTDOWN_BOTH, SHUTDOWN_RECEIVE, SHUTDOWN_SEND};
use crate::vsock::testing::{data, header};

const CAPACITY: u32 = 4096;

fn open() -> Connection {
    let mut connection = Connection::offered(&header(Op::Request, 1, 2), CAPACITY);
    assert!(connection.accept());
    assert_eq!(send(&mut connection), Some(Op::Response));
    connection
}

/// Sends what the connection wants to send, without its payload.
fn send(connection: &mut Connection) -> Option<Op> {
    let output = connection.output(usize::MAX)?;
    connection.sent(&output);
    connection.take_payload(&mut Vec::new(), output.len).unwrap();
    Some(output.op)
}

fn shutdown(connection: &mut Connection, flags: u32) {
    let packet = Header { flags, ..header(Op::Shutdown, 1, 2) };
    connection.receive(Op::Shutdown, &packet, &mut [].as_slice());
}

fn control(connection: &mut Connection, op: Op) {
    connection.receive(op, &header(op, 1, 2), &mut [].as_slice());
}

fn guest_writes(connection: &mut Connection, bytes: &[u8]) {
    connection.receive(Op::Data, &data(1, 2, bytes.len()), &mut &*bytes);
}

fn host_writes(connection: &mut Connection, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        connection.read_host(&mut bytes).unwrap();
    }
}

fn host_reads(connection: &mut Connection) -> Vec<u8> {
    let mut bytes = Vec::new();
    while connection.pending_host_output() > 0 {
        connection.write_host(&mut bytes).unwrap();
    }
    bytes
}

#[test]
fn host_may_write_before_the_guest_answers() {
    let mut connection = Connection::requesting(CAPACITY);
    assert!(connection.wants_host_input());
    host_writes(&mut connection, b"early");
    assert_eq!(send(&mut connection), Some(Op::Request));
    assert_eq!(send(&mut connection), None);
    control(&mut connection, Op::Response);
    assert_eq!(connection.output(3).unwrap().len, 3);
    assert_eq!(connection.output(99).unwrap().len, 5);
    assert_eq!(send(&mut connection), Some(Op::Data));
    assert_eq!(send(&mut connection), None);
}

#[test]
fn refused_connection_is_over() {
    let mut connection = Connection::requesting(CAPACITY);
    assert_eq!(send(&mut connection), Some(Op::Request));
    control(&mut connection, Op::Reset);
    assert!(connection.is_over() && connection.is_over_for_host());
    assert_eq!(send(&mut connection), None);
}

#[test]
fn answer_to_no_request_aborts() {
    let mut connection = Connection::requesting(CAPACITY);
    control(&mut connection, Op::Response);
    assert!(connection.is_over());
    let mut connection = open();
    control(&mut connection, Op::Response);
    assert_eq!(send(&mut connection), Some(Op::Reset));
    assert!(connection.is_over());
}

#[test]
fn second_request_aborts() {
    let mut connection = open();
    control(&mut connection, Op::Request);
    assert!(connection.is_over_for_host());
    assert_eq!(send(&mut connection), Some(Op::Reset));
}

#[test]
fn data_before_the_answer_aborts() {
    let mut connection = Connection::offered(&header(Op::Request, 1, 2), CAPACITY);
    guest_writes(&mut connection, b"x");
    assert!(!connection.accept());
    assert_eq!(send(&mut connection), Some(Op::Reset));
}

#[test]
fn guest_that_sends_beyond_its_credit_is_aborted() {
    let mut connection = open();
    guest_writes(&mut connection, &[1; CAPACITY as usize]);
    assert!(!connection.is_over_for_host());
    guest_writes(&mut connection, &[1]);
    assert!(connection.is_over_for_host());
    assert_eq!(send(&mut connection), Some(Op::Reset));
    assert!(connection.is_over());
}

#[test]
fn credit_returns_as_the_host_reads_and_the_guest_is_told() {
    let mut connection = open();
    guest_writes(&mut connection, &[1; CAPACITY as usize]);
    assert_eq!(send(&mut connection), None);
    assert_eq!(host_reads(&mut connection).len(), CAPACITY as usize);
    let output = connection.output(0).unwrap();
    assert_eq!(output.op, Op::CreditUpdate);
    assert_eq!(connection.sent(&output), (CAPACITY, CAPACITY));
    assert_eq!(send(&mut connection), None);
    guest_writes(&mut connection, &[1; CAPACITY as usize]);
    assert!(!connection.is_over_for_host());
}

#[test]
fn guest_without_room_is_asked_once_and_sent_no_more() {
    let mut connection = open();
    let small = Header { buf_alloc: 3, ..header(Op::CreditUpdate, 1, 2) };
    connection.receive(Op::CreditUpdate, &small, &mut [].as_slice());
    host_writes(&mut connection, b"hello");
    let output = connection.output(usize::MAX).unwrap();
    assert_eq!((output.op, output.len), (Op::Data, 3));
    assert_eq!(send(&mut connection), Some(Op::Data));
    assert_eq!(send(&mut connection), Some(Op::CreditRequest));
    assert_eq!(send(&mut connection), None);
    // An answer that gives nothing is not asked for again.
    connection.receive(Op::CreditUpdate, &small, &mut [].as_slice());
    assert_eq!(send(&mut connection), None);
    let grown = Header { fwd_cnt: 3, ..small };
    connection.receive(Op::CreditUpdate, &grown, &mut [].as_slice());
    assert_eq!(send(&mut connection), Some(Op::Data));
}

#[test]
fn credit_request_is_answered() {
    let mut connection = open();
    control(&mut connection, Op::CreditRequest);
    assert_eq!(send(&mut connection), Some(Op::CreditUpdate));
    assert_eq!(send(&mut connection), None);
}

#[test]
fn end_of_the_hosts_input_follows_its_last_byte() {
    let mut connection = open();
    host_writes(&mut connection, b"last");
    connection.host_ended();
    assert_eq!(send(&mut connection), Some(Op::Data));
    let output = connection.output(usize::MAX).unwrap();
    assert_eq!((output.op, output.flags), (Op::Shutdown, SHUTDOWN_SEND));
    connection.sent(&output);
    assert_eq!(send(&mut connection), None);
    guest_writes(&mut connection, b"answer");
    assert_eq!(host_reads(&mut connection), b"answer");
}

#[test]
fn end_of_the_guests_output_follows_its_last_byte() {
    let mut connection = open();
    guest_writes(&mut connection, b"last");
    shutdown(&mut connection, SHUTDOWN_SEND);
    assert!(!connection.host_output_ended());
    assert_eq!(host_reads(&mut connection), b"last");
    assert!(connection.host_output_ended());
    assert!(connection.wants_host_input());
    guest_writes(&mut connection, b"x");
    assert_eq!(send(&mut connection), Some(Op::Reset));
}

#[test]
fn guest_that_closed_gets_its_reset_after_the_host_read_all() {
    let mut connection = open();
    guest_writes(&mut connection, b"last");
    host_writes(&mut connection, b"for nobody");
    shutdown(&mut connection, SHUTDOWN_BOTH);
    assert!(!connection.wants_host_input());
    assert_ne!(send(&mut connection), Some(Op::Reset));
    assert_eq!(host_reads(&mut connection), b"last");
    assert_eq!(send(&mut connection), Some(Op::Reset));
    assert!(connection.is_over());
}

#[test]
fn bytes_before_a_reset_reach_the_host() {
    let mut connection = open();
    guest_writes(&mut connection, b"last");
    control(&mut connection, Op::Reset);
    assert!(!connection.is_over_for_host() && connection.is_over_for_guest());
    assert_eq!(send(&mut connection), None);
    assert_eq!(host_reads(&mut connection), b"last");
    assert!(connection.is_over_for_host() && connection.is_over());
}

#[test]
fn host_that_closed_has_its_bytes_delivered_and_then_resets() {
    let mut connection = open();
    host_writes(&mut connection, b"last");
    connection.host_is_deaf();
    connection.host_ended();
    guest_writes(&mut connection, b"for nobody");
    assert_eq!(connection.pending_host_output(), 0);
    assert_eq!(send(&mut connection), Some(Op::Data));
    assert_eq!(send(&mut connection), Some(Op::Reset));
    assert!(connection.is_over());
}

#[test]
fn guest_learns_that_the_host_reads_no_more() {
    let mut connection = open();
    guest_writes(&mut connection, b"for nobody");
    connection.host_is_deaf();
    let output = connection.output(usize::MAX).unwrap();
    assert_eq!((output.op, output.flags), (Op::Shutdown, SHUTDOWN_RECEIVE));
    connection.sent(&output);
    connection.host_ended();
    assert_eq!(send(&mut connection), Some(Op::Reset));
}

#[test]
fn unknown_shutdown_flags_do_nothing() {
    let mut connection = open();
    shutdown(&mut connection, !SHUTDOWN_BOTH);
    assert!(!connection.host_output_ended() && !connection.guest_is_deaf());
    assert_eq!(send(&mut connection), None);
}

#[test]
fn packets_behind_the_end_are_ignored() {
    let mut connection = open();
    connection.abort();
    guest_writes(&mut connection, b"late");
    assert_eq!(connection.pending_host_output(), 0);
    assert_eq!(send(&mut connection), Some(Op::Reset));
    guest_writes(&mut connection, b"later");
    control(&mut connection, Op::Request);
    assert!(connection.is_over());
    assert_eq!(send(&mut connection), None);
}
