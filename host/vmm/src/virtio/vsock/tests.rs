//! Tests of the vsock device between a driver of the tests and a relay.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::virtio::Device as _;
use crate::vsock::packet::{Header, Op};
use crate::vsock::relay;
use crate::vsock::testing::{self, Bench, CONFIG, DriverQueue, WRITE};
use crate::vsock::{VsockHandle, VsockListener};

const SOON: Duration = Duration::from_secs(60);

/// A device, the handle of another process on it, and a driver.
struct Bed {
    device: Device,
    handle: VsockHandle,
    interrupt: Arc<Interrupt>,
    memory: Memory,
    rx: DriverQueue,
    tx: DriverQueue,
}

impl Bed {
    fn new() -> Self {
        let (ours, theirs) = Channel::pair().unwrap();
        let device = Device::new(CONFIG, theirs).unwrap();
        let handle = relay::serve(ours).unwrap();
        let Bench { memory, rx, tx, .. } = Bench::new();
        let interrupt = Arc::new(Interrupt::with_queues(QUEUE_SIZES.len()).unwrap());
        Self { device, handle, interrupt, memory, rx, tx }
    }

    fn activate(&mut self) {
        let queues = vec![Some(self.rx.device_queue()), Some(self.tx.device_queue()), None];
        let (memory, interrupt) = (self.memory.clone(), self.interrupt.clone());
        self.device.activate(Activation { memory, queues, features: 0, interrupt }).unwrap();
    }

    /// Waits for the relay's thread and serves what it says.
    fn serve(&mut self) {
        let descriptors = [self.device.remote.as_fd(), self.device.epoll.0.as_fd()];
        let mut watched = descriptors.map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        poll(&mut watched, PollTimeout::from(60_000_u16)).unwrap();
        self.device.on_source(SOURCE_ORDERS, EpollFlags::EPOLLIN);
        self.device.on_source(SOURCE_STREAMS, EpollFlags::EPOLLIN);
    }

    /// Waits for an order of the relay, and does it.
    fn obey(&mut self) {
        let mut watched = [PollFd::new(self.device.remote.as_fd(), PollFlags::POLLIN)];
        poll(&mut watched, PollTimeout::from(60_000_u16)).unwrap();
        self.device.on_source(SOURCE_ORDERS, EpollFlags::EPOLLIN);
    }

    fn listen(&mut self, port: u32) -> io::Result<VsockListener> {
        let handle = self.handle.clone();
        let listening = std::thread::spawn(move || handle.listen(port, 1));
        self.serve();
        listening.join().unwrap()
    }

    fn send(&mut self, header: &Header, payload: &[u8]) {
        let bytes = [&header.to_bytes()[..], payload].concat();
        let len = u32::try_from(bytes.len()).unwrap();
        let index = self.tx.add_buffer(&self.memory, len, 0);
        self.memory.write_slice(&bytes, GuestAddress(self.tx.buffer(index))).unwrap();
        self.device.on_kick(TX_QUEUE);
    }

    fn receive(&mut self) -> Option<(Header, Vec<u8>)> {
        let index = self.rx.add_buffer(&self.memory, 4096, WRITE);
        self.device.on_kick(RX_QUEUE);
        let (_, written) = *self.rx.take_used(&self.memory).first()?;
        let mut bytes = vec![0; written as usize];
        self.memory.read_slice(&mut bytes, GuestAddress(self.rx.buffer(index))).unwrap();
        let payload = bytes.split_off(crate::vsock::packet::HEADER_LEN);
        Some((Header::read_from(&mut bytes.as_slice()).unwrap(), payload))
    }
}

fn read_to_end(mut stream: &UnixStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    bytes
}

#[test]
fn guest_connects_to_a_listener_of_another_process_and_bytes_pass() {
    let mut bed = Bed::new();
    let listener = bed.listen(1024).unwrap();
    bed.activate();
    bed.send(&testing::header(Op::Request, 5, 1024), &[]);
    let mut stream = listener.accept(SOON).unwrap().unwrap();
    assert_eq!(bed.receive().unwrap().0.op, Op::Response.to_wire());
    bed.send(&testing::data(5, 1024, 5), b"hello");
    let mut word = [0; 5];
    stream.read_exact(&mut word).unwrap();
    assert_eq!(&word, b"hello");
    stream.write_all(b"back").unwrap();
    bed.serve();
    let (header, payload) = bed.receive().unwrap();
    assert_eq!((header.src_port, header.dst_port, payload.as_slice()), (1024, 5, &b"back"[..]));
    assert_eq!(bed.device.progress().get(), Progress::Packet);
    let counters = bed.device.counters();
    assert_eq!((counters["received_bytes"], counters["connections"]), (5, 1));
}

#[test]
fn host_connects_before_the_driver_is_there() {
    let mut bed = Bed::new();
    let mut stream = bed.handle.connect(1025).unwrap();
    stream.write_all(b"early").unwrap();
    bed.serve();
    assert_eq!(bed.device.progress().get(), Progress::Nothing);
    bed.activate();
    assert_eq!(bed.device.progress().get(), Progress::Driver);
    let (header, _) = bed.receive().unwrap();
    assert_eq!((header.op, header.dst_port), (Op::Request.to_wire(), 1025));
    bed.send(&testing::header(Op::Response, 1025, header.src_port), &[]);
    assert_eq!(bed.receive().unwrap().1, b"early");
}

#[test]
fn port_is_one_listeners_until_it_goes() {
    let mut bed = Bed::new();
    let listener = bed.listen(7).unwrap();
    assert_eq!(bed.listen(7).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    drop(listener);
    bed.serve();
    assert!(bed.listen(7).is_ok());
}

#[test]
fn connection_beyond_the_listeners_backlog_is_refused_until_one_is_taken() {
    let mut bed = Bed::new();
    let listener = bed.listen(1024).unwrap();
    bed.activate();
    let connect = |bed: &mut Bed, guest_port| {
        bed.send(&testing::header(Op::Request, guest_port, 1024), &[]);
        let (answer, _) = bed.receive().unwrap();
        assert_eq!(answer.dst_port, guest_port);
        Op::from_wire(answer.op).unwrap()
    };
    assert_eq!([5, 6, 7].map(|port| connect(&mut bed, port)), [Op::Response, Op::Reset, Op::Reset]);
    let _first = listener.accept(SOON).unwrap().unwrap();
    bed.obey();
    assert_eq!([6, 7].map(|port| connect(&mut bed, port)), [Op::Response, Op::Reset]);
    assert!(listener.accept(SOON).unwrap().is_some());
    assert!(listener.try_accept().unwrap().is_none());
}

#[test]
fn reset_ends_streams_and_keeps_listeners() {
    let mut bed = Bed::new();
    let listener = bed.listen(1024).unwrap();
    bed.activate();
    bed.send(&testing::header(Op::Request, 5, 1024), &[]);
    let stream = listener.accept(SOON).unwrap().unwrap();
    bed.obey();
    bed.device.reset();
    assert!(read_to_end(&stream).is_empty());
    let Bench { rx, tx, memory, .. } = Bench::new();
    (bed.rx, bed.tx, bed.memory) = (rx, tx, memory);
    bed.activate();
    bed.send(&testing::header(Op::Request, 5, 1024), &[]);
    assert!(listener.accept(SOON).unwrap().is_some());
}

#[test]
fn device_that_goes_ends_listeners_and_refuses_handles() {
    let mut bed = Bed::new();
    let listener = bed.listen(1024).unwrap();
    let Bed { device, handle, .. } = bed;
    drop(device);
    assert_eq!(listener.accept(SOON).unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
    // The relay lets go of its mailbox just after its sinks.
    let refused = (0..1000).any(|_| {
        std::thread::sleep(Duration::from_millis(1));
        handle.connect(1).is_err()
    });
    assert!(refused);
}

#[test]
fn host_side_that_makes_no_sense_is_let_go_of() {
    let (ours, theirs) = Channel::pair().unwrap();
    let mut device = Device::new(CONFIG, theirs).unwrap();
    // A connection without its stream.
    ours.send(&relay::Order::Connect { guest_port: 1 }, None).unwrap();
    device.on_source(SOURCE_ORDERS, EpollFlags::EPOLLIN);
    assert!(device.deserted);
    assert!(ours.send(&relay::Order::Listen { host_port: 1, backlog: 1 }, None).is_err());
}

#[test]
fn ring_that_lies_stops_the_device_until_it_is_reset() {
    let mut bed = Bed::new();
    bed.activate();
    // More available than the queue has.
    bed.tx.set_avail_idx(&bed.memory, 1000);
    bed.device.on_kick(TX_QUEUE);
    assert!(bed.interrupt.is_reset_needed());
    assert_eq!(bed.device.counters()["broken_queues"], 1);
    bed.device.on_kick(TX_QUEUE);
    assert_eq!(bed.device.counters()["broken_queues"], 1);
}

#[test]
fn configuration_space_is_the_guests_address_and_no_more() {
    let bed = Bed::new();
    let mut data = [0xaa; 8];
    bed.device.read_config(0, &mut data);
    assert_eq!(u64::from_le_bytes(data), CONFIG.guest_cid);
    let mut data = [0; 8];
    bed.device.read_config(4, &mut data);
    bed.device.read_config(8, &mut data);
    bed.device.read_config(u64::MAX, &mut data);
    assert_eq!(data, [0; 8]);
}
