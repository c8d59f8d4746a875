//! Tests: the server, from its socket to its end.

use std::io::Write;
use std::os::fd::AsRawFd;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use nix::fcntl::SealFlag;
use tracing::field::{Field, Visit};
use tracing::span;
use vhost::vhost_user::message::{VhostUserConfigFlags, VhostUserProtocolFeatures};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;

use super::super::memory::tests::memfd;
use super::*;
use crate::Memory;
use crate::vsock::packet::{HEADER_LEN, Header, Op};
use crate::vsock::testing::{CONFIG, DriverQueue, MEMORY_BYTES, QUEUE_SIZE, WRITE, data, header};

const FRONT_END: u64 = 0x7f00_0000_0000;
const PATIENCE: Duration = Duration::from_secs(60);
const SERVICE: u32 = 1024;

/// A VMM with a guest whose driver is the test.
struct FrontEnd {
    socket: Frontend,
    memory: Memory,
    queues: [DriverQueue; QUEUES],
    kicks: [EventFd; QUEUES],
    calls: [EventFd; QUEUES],
}

impl FrontEnd {
    fn start() -> (Self, Server) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let server = serve(CONFIG, theirs).unwrap();
        let file = memfd(MEMORY_BYTES as u64, SealFlag::F_SEAL_SHRINK);
        let mut front_end = Self {
            socket: Frontend::from_stream(ours, QUEUES as u64),
            memory: GuestMemoryMmap::from_ranges_with_files([(
                GuestAddress(0),
                MEMORY_BYTES,
                Some(FileOffset::new(file.try_clone().unwrap(), 0)),
            )])
            .unwrap()
            .into(),
            queues: [DriverQueue::new(0), DriverQueue::new(1)],
            kicks: [EventFd::new(0).unwrap(), EventFd::new(0).unwrap()],
            calls: [EventFd::new(0).unwrap(), EventFd::new(0).unwrap()],
        };
        front_end.negotiate(&file);
        front_end.start_queues();
        (front_end, server)
    }

    fn negotiate(&mut self, memory: &File) {
        let features = self.socket.get_features().unwrap();
        // Without event indices, so that every packet is an interrupt.
        self.socket.set_features(features & !(1 << 29)).unwrap();
        self.socket.set_owner().unwrap();
        assert!(
            self.socket
                .get_protocol_features()
                .unwrap()
                .contains(VhostUserProtocolFeatures::CONFIG)
        );
        self.socket.set_protocol_features(VhostUserProtocolFeatures::CONFIG).unwrap();
        let region = VhostUserMemoryRegionInfo {
            guest_phys_addr: 0,
            memory_size: MEMORY_BYTES as u64,
            userspace_addr: FRONT_END,
            mmap_offset: 0,
            mmap_handle: memory.as_raw_fd(),
        };
        self.socket.set_mem_table(&[region]).unwrap();
    }

    fn start_queues(&mut self) {
        for index in 0..QUEUES {
            let queue = &self.queues[index];
            let addresses = VringConfigData {
                queue_max_size: QUEUE_SIZE,
                queue_size: QUEUE_SIZE,
                flags: 0,
                desc_table_addr: FRONT_END + queue.descriptors(),
                used_ring_addr: FRONT_END + queue.used(),
                avail_ring_addr: FRONT_END + queue.available(),
                log_addr: None,
            };
            self.socket.set_vring_num(index, QUEUE_SIZE).unwrap();
            self.socket.set_vring_base(index, queue.available_index()).unwrap();
            self.socket.set_vring_addr(index, &addresses).unwrap();
            self.socket.set_vring_kick(index, &self.kicks[index]).unwrap();
            self.socket.set_vring_call(index, &self.calls[index]).unwrap();
            self.socket.set_vring_enable(index, true).unwrap();
        }
        self.sync();
    }

    /// Requests are answered in order: the earlier ones were heard.
    fn sync(&mut self) {
        self.socket.get_features().unwrap();
    }

    fn send(&mut self, header: &Header, payload: &[u8]) {
        let bytes = [&header.to_bytes()[..], payload].concat();
        let len = u32::try_from(bytes.len()).unwrap();
        let queue = &mut self.queues[TX_QUEUE];
        // Written before it is published: the device may be looking.
        let address = queue.buffer(queue.next_descriptor());
        self.memory.write_slice(&bytes, GuestAddress(address)).unwrap();
        queue.add_buffer(&self.memory, len, 0);
        self.kicks[TX_QUEUE].write(1).unwrap();
        self.calls[TX_QUEUE].read().unwrap();
        assert_eq!(queue.take_used(&self.memory).len(), 1);
    }

    fn receive(&mut self) -> (Header, Vec<u8>) {
        let queue = &mut self.queues[RX_QUEUE];
        let index = queue.add_buffer(&self.memory, 4096, WRITE);
        self.kicks[RX_QUEUE].write(1).unwrap();
        self.calls[RX_QUEUE].read().unwrap();
        let (_, len) = queue.take_used(&self.memory)[0];
        let mut bytes = vec![0; len as usize];
        self.memory.read_slice(&mut bytes, GuestAddress(queue.buffer(index))).unwrap();
        (Header::read_from(&mut bytes.as_slice()).unwrap(), bytes.split_off(HEADER_LEN))
    }

    /// A stream that the guest opened, and answers to.
    fn connect(&mut self, server: &Server) -> UnixStream {
        let listener = server.handle().listen(SERVICE, 1).unwrap();
        self.send(&header(Op::Request, 7, SERVICE), &[]);
        assert_eq!(self.receive().0.op, Op::Response.to_wire());
        listener.accept(PATIENCE).unwrap().unwrap()
    }
}

#[test]
fn bytes_pass_between_the_queues_and_the_streams() {
    let (mut front_end, server) = FrontEnd::start();
    let mut stream = front_end.connect(&server);
    front_end.send(&data(7, SERVICE, 5), b"hello");
    let mut bytes = [0; 5];
    stream.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"hello");
    stream.write_all(b"world").unwrap();
    assert_eq!(front_end.receive().1, b"world");
    assert_eq!(server.progress(), Progress::Packet);
}

#[test]
fn device_tells_the_guests_address() {
    let (mut front_end, _server) = FrontEnd::start();
    let flags = VhostUserConfigFlags::empty();
    let (_, cid) = front_end.socket.get_config(0, 8, flags, &[0; 8]).unwrap();
    assert_eq!(cid, CONFIG.guest_cid.to_le_bytes());
}

#[test]
fn front_end_that_goes_ends_streams_and_handles() {
    let (mut front_end, server) = FrontEnd::start();
    let mut stream = front_end.connect(&server);
    let handle = server.handle().clone();
    assert!(!server.lost_guest());
    drop(front_end);
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    assert!(server.lost_guest());
    server.join().unwrap();
    assert_eq!(handle.connect(1).unwrap_err().kind(), io::ErrorKind::NotConnected);
}

#[test]
fn front_end_that_breaks_the_protocol_ends_the_device() {
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let server = serve(CONFIG, theirs).unwrap();
    ours.write_all(&[0xff; 64]).unwrap();
    assert!(matches!(server.join(), Err(ServerError::Protocol(_))));
}

#[test]
fn front_end_that_dies_within_a_message_is_one_that_goes() {
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let server = serve(CONFIG, theirs).unwrap();
    ours.write_all(&[1, 0, 0, 0, 1]).unwrap();
    drop(ours);
    server.join().unwrap();
}

#[test]
fn guest_that_restarts_loses_its_streams_and_gets_new_ones() {
    let (mut front_end, server) = FrontEnd::start();
    let mut old = front_end.connect(&server);
    for index in 0..QUEUES {
        let next = front_end.socket.get_vring_base(index).unwrap();
        assert_eq!(next, u32::from(front_end.queues[index].available_index()));
    }
    assert_eq!(old.read(&mut [0]).unwrap(), 0);
    assert!(server.lost_guest());
    front_end.start_queues();
    let mut stream = front_end.connect(&server);
    assert!(!server.lost_guest());
    front_end.send(&data(7, SERVICE, 2), b"up");
    stream.read_exact(&mut [0; 2]).unwrap();
}

#[test]
fn queue_size_changed_while_it_runs_is_ignored() {
    let (mut front_end, server) = FrontEnd::start();
    front_end.socket.set_vring_num(TX_QUEUE, 1024).unwrap();
    front_end.sync();
    let mut stream = front_end.connect(&server);
    // Around the ring more than once: another size would look elsewhere.
    for _ in 0..2 * QUEUE_SIZE {
        front_end.send(&data(7, SERVICE, 1), b"x");
        stream.read_exact(&mut [0]).unwrap();
    }
}

#[test]
fn ring_that_lies_is_given_up_and_the_host_lives_on() {
    let (mut front_end, server) = FrontEnd::start();
    let mut stream = front_end.connect(&server);
    front_end.queues[TX_QUEUE].set_avail_idx(&front_end.memory, 5000);
    front_end.kicks[TX_QUEUE].write(1).unwrap();
    // The other queue is none of that one's.
    stream.write_all(b"still").unwrap();
    assert_eq!(front_end.receive().1, b"still");
    let mut other = server.handle().connect(9).unwrap();
    assert_eq!(front_end.receive().0.op, Op::Request.to_wire());
    drop(front_end);
    assert_eq!(other.read(&mut [0]).unwrap(), 0);
    server.join().unwrap();
}

/// Counts what this room says of queues where a host's log would have it.
struct Log(Arc<AtomicUsize>);

impl tracing::Subscriber for Log {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() <= tracing::Level::WARN
    }

    fn event(&self, event: &tracing::Event<'_>) {
        struct IsOfQueue(bool);
        impl Visit for IsOfQueue {
            fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
                self.0 |= field.name() == "message" && format!("{value:?}").contains("queue");
            }
        }
        let mut of_queue = IsOfQueue(false);
        event.record(&mut of_queue);
        self.0.fetch_add(usize::from(of_queue.0), Ordering::SeqCst);
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

#[test]
fn guest_that_breaks_its_rings_again_and_again_fills_no_log() {
    let lines = Arc::new(AtomicUsize::new(0));
    tracing::subscriber::set_global_default(Log(lines.clone())).unwrap();
    let (mut front_end, _server) = FrontEnd::start();
    for _ in 0..10 {
        front_end.queues[TX_QUEUE].set_avail_idx(&front_end.memory, 5000);
        front_end.kicks[TX_QUEUE].write(1).unwrap();
        // The kick is looked at before a request that comes after the answer to this one.
        front_end.sync();
        for index in 0..QUEUES {
            front_end.socket.get_vring_base(index).unwrap();
        }
        let index = front_end.queues[TX_QUEUE].available_index();
        front_end.queues[TX_QUEUE].set_avail_idx(&front_end.memory, index);
        front_end.start_queues();
    }
    // It was broken, and works.
    front_end.send(&header(Op::Reset, 7, SERVICE), &[]);
    assert_eq!(lines.load(Ordering::SeqCst), 0);
}
