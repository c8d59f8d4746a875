//! The vsock device by itself: a driver on plain memory, without KVM, that keeps the queues filled.
//! Beside each figure, what two threads get through a Unix socket: the difference is the device.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use husk_vmm::Memory;
use husk_vmm::channel::Channel;
use husk_vmm::virtio::{Activation, Device, Interrupt, vsock};
use husk_vmm::vsock::device::{RX_QUEUE, TX_QUEUE};
use husk_vmm::vsock::packet::{HEADER_LEN, Header, MAX_PAYLOAD_LEN, Op, TYPE_STREAM};
use husk_vmm::vsock::{Config, Limits, relay};
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::epoll::EpollFlags;
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress};

use super::report::{Report, median, ratio};

const TOTAL: u32 = 256 << 20;
const MEMORY_LEN: usize = 32 << 20;
const QUEUE_SIZE: u16 = 32;
/// Where the rings of a queue are, and their buffers.
const RINGS: u64 = 0x1000;
const RINGS_STRIDE: u64 = 0x4000;
const BUFFERS: u64 = 0x10_0000;
const BUFFERS_STRIDE: u64 = 0x80_0000;
const BUFFER_STRIDE: u64 = 0x1_1000;
const PORT: u32 = 5000;
const GUEST_CID: u64 = 3;
const HOST_CID: u64 = 2;
/// What the driver says that it holds.
const OUR_BUFFER: u32 = 256 << 10;
const ACCEPT: Duration = Duration::from_secs(30);

/// Which way the bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    ToHost,
    ToGuest,
}

/// Throughput both ways.
pub fn throughput(runs: usize, report: &mut Report) -> Result<()> {
    for (way, name) in
        [(Way::ToHost, "vsock, guest to host"), (Way::ToGuest, "vsock, host to guest")]
    {
        let (mut times, mut plain_times) = (Vec::new(), Vec::new());
        for _ in 0..runs {
            plain_times.push(plain()?);
            times.push(Driver::new(way)?.run(way).context(name)?);
        }
        let (time, plain) = (median(&times), median(&plain_times));
        let rate = f64::from(TOTAL >> 20) / time.as_secs_f64();
        report.add(name, rate, "MiB/s", None);
        report.add(&format!("{name}, time of a Unix socket"), ratio(time, plain), "x", None);
    }
    Ok(())
}

fn read_all(mut stream: UnixStream) -> std::io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    let mut left = TOTAL as usize;
    while left > 0 {
        match stream.read(&mut buffer)? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            count => left = left.saturating_sub(count),
        }
    }
    Ok(())
}

fn write_all(mut stream: UnixStream) -> std::io::Result<()> {
    let block = vec![0x5a; 64 << 10];
    (0..TOTAL as usize / block.len()).try_for_each(|_| stream.write_all(&block))?;
    // Until the driver has it all.
    stream.read(&mut [0]).map(drop)
}

fn plain() -> Result<Duration> {
    let (ours, theirs) = UnixStream::pair()?;
    let began = Instant::now();
    let writer = thread::spawn(move || write_all(theirs));
    read_all(ours)?;
    let time = began.elapsed();
    // It hears the end of the other side.
    let _ = writer.join();
    Ok(time)
}

/// The driver's side of one queue: each chain is one descriptor, and each descriptor has its
/// buffer.
struct Ring {
    rings: u64,
    buffers: u64,
    added: u16,
    used: u16,
}

impl Ring {
    fn new(index: usize) -> Self {
        let index = index as u64;
        Self {
            rings: RINGS + index * RINGS_STRIDE,
            buffers: BUFFERS + index * BUFFERS_STRIDE,
            added: 0,
            used: 0,
        }
    }

    fn queue(&self) -> Result<Queue> {
        let mut queue = Queue::new(QUEUE_SIZE)?;
        queue.try_set_desc_table_address(GuestAddress(self.rings))?;
        queue.try_set_avail_ring_address(GuestAddress(self.rings + 0x1000))?;
        queue.try_set_used_ring_address(GuestAddress(self.rings + 0x2000))?;
        queue.set_ready(true);
        Ok(queue)
    }

    fn buffer(&self, slot: u16) -> GuestAddress {
        GuestAddress(self.buffers + u64::from(slot) * BUFFER_STRIDE)
    }

    /// Gives a buffer to the device; `flags` of virtio 1.2 §2.7.5.
    fn add(&mut self, memory: &Memory, slot: u16, len: u32, flags: u16) -> Result<()> {
        let place = self.rings + u64::from(slot) * 16;
        memory.write_obj(self.buffer(slot).0, GuestAddress(place))?;
        memory.write_obj(len, GuestAddress(place + 8))?;
        memory.write_obj(flags, GuestAddress(place + 12))?;
        let available = self.rings + 0x1000;
        let entry = available + 4 + u64::from(self.added % QUEUE_SIZE) * 2;
        memory.write_obj(slot, GuestAddress(entry))?;
        self.added = self.added.wrapping_add(1);
        memory.write_obj(self.added, GuestAddress(available + 2))?;
        Ok(())
    }

    /// The next buffer that the device is done with.
    fn take(&mut self, memory: &Memory) -> Result<Option<u16>> {
        let used = self.rings + 0x2000;
        let index: u16 = memory.read_obj(GuestAddress(used + 2))?;
        if self.used == index {
            return Ok(None);
        }
        let entry = used + 4 + u64::from(self.used % QUEUE_SIZE) * 8;
        let slot: u32 = memory.read_obj(GuestAddress(entry))?;
        self.used = self.used.wrapping_add(1);
        Ok(Some(u16::try_from(slot)?))
    }
}

/// The driver, the device, and one connection between them.
struct Driver {
    memory: Memory,
    device: vsock::Device,
    interrupt: Arc<Interrupt>,
    receive: Ring,
    send: Ring,
    /// Buffers of the send queue.
    free: Vec<u16>,
    open: bool,
    sent: u32,
    /// What the host holds for us, and what it has taken out of that.
    host_buffer: u32,
    host_taken: u32,
    got: u32,
    told: u32,
    host: JoinHandle<std::io::Result<()>>,
}

/// VIRTQ_DESC_F_WRITE. virtio 1.2 §2.7.5.
const WRITABLE: u16 = 2;
const LARGEST: u32 = HEADER_BYTES + MAX_PAYLOAD_LEN;
/// [`HEADER_LEN`], as descriptors have it.
const HEADER_BYTES: u32 = 44;

impl Driver {
    fn new(way: Way) -> Result<Self> {
        let (ours, theirs) = Channel::pair()?;
        let config = Config { guest_cid: GUEST_CID, host_cid: HOST_CID, limits: Limits::default() };
        let mut device = vsock::Device::new(config, theirs)?;
        let memory = Memory::from_ranges(&[(GuestAddress(0), MEMORY_LEN)])?;
        let (mut receive, send) = (Ring::new(RX_QUEUE), Ring::new(TX_QUEUE));
        let interrupt = Arc::new(Interrupt::with_queues(2)?);
        device.activate(Activation {
            memory: memory.clone(),
            queues: vec![Some(receive.queue()?), Some(send.queue()?)],
            features: 0,
            interrupt: Arc::clone(&interrupt),
        })?;
        for slot in 0..QUEUE_SIZE {
            receive.add(&memory, slot, LARGEST, WRITABLE)?;
        }
        let (listens, listening) = mpsc::channel();
        let handle = relay::serve(ours)?;
        let host = thread::spawn(move || {
            let listener = handle.listen(PORT, 1)?;
            // Whoever waits for it has gone if this fails.
            let _ = listens.send(());
            let stream = listener.accept(ACCEPT)?.ok_or(std::io::ErrorKind::TimedOut)?;
            if way == Way::ToHost { read_all(stream) } else { write_all(stream) }
        });
        let free = (0..QUEUE_SIZE).collect();
        let mut driver = Self {
            memory,
            device,
            interrupt,
            receive,
            send,
            free,
            open: false,
            sent: 0,
            host_buffer: 0,
            host_taken: 0,
            got: 0,
            told: 0,
            host,
        };
        driver.connect(&listening)?;
        Ok(driver)
    }

    fn connect(&mut self, listening: &Receiver<()>) -> Result<()> {
        while listening.try_recv().is_err() {
            ensure!(!self.host.is_finished(), "the host does not listen");
            self.wait()?;
        }
        self.packet(Op::Request, 0)?;
        while !self.open {
            if !self.turn()? {
                self.wait()?;
            }
        }
        Ok(())
    }

    /// All bytes one way.
    fn run(mut self, way: Way) -> Result<Duration> {
        let began = Instant::now();
        let is_done = |driver: &Self| match way {
            Way::ToHost => driver.host.is_finished(),
            Way::ToGuest => driver.got == TOTAL,
        };
        while !is_done(&self) {
            if way == Way::ToHost {
                self.fill()?;
            } else if self.got.wrapping_sub(self.told) >= OUR_BUFFER / 2 {
                self.told = self.got;
                self.packet(Op::CreditUpdate, 0)?;
            }
            if !self.turn()? && !is_done(&self) {
                self.wait()?;
            }
        }
        let time = began.elapsed();
        let Self { device, host, .. } = self;
        // The stream ends with the device, and a host that writes waits for that.
        drop(device);
        let host = host.join().map_err(|_| anyhow::anyhow!("the host panicked"))?;
        host.context("the host's side")?;
        Ok(time)
    }

    /// As many packets as the host and the queue take.
    fn fill(&mut self) -> Result<()> {
        loop {
            let room = self.host_buffer.saturating_sub(self.sent.wrapping_sub(self.host_taken));
            let len = room.min(MAX_PAYLOAD_LEN).min(TOTAL - self.sent);
            if len == 0 || self.free.is_empty() {
                return Ok(());
            }
            self.packet(Op::Data, len)?;
            self.sent += len;
        }
    }

    fn packet(&mut self, op: Op, len: u32) -> Result<()> {
        let Some(slot) = self.free.pop() else { bail!("the send queue is full") };
        let header = Header {
            src_cid: GUEST_CID,
            dst_cid: HOST_CID,
            src_port: 1024,
            dst_port: PORT,
            len,
            kind: TYPE_STREAM,
            op: op.to_wire(),
            flags: 0,
            buf_alloc: OUR_BUFFER,
            fwd_cnt: self.got,
        };
        self.memory.write_slice(&header.to_bytes(), self.send.buffer(slot))?;
        self.send.add(&self.memory, slot, HEADER_BYTES + len, 0)
    }

    /// A turn of the device. False when nothing came of it.
    fn turn(&mut self) -> Result<bool> {
        self.device.on_kick(TX_QUEUE);
        let mut moved = false;
        while let Some(slot) = self.send.take(&self.memory)? {
            self.free.push(slot);
            moved = true;
        }
        while let Some(slot) = self.receive.take(&self.memory)? {
            let mut bytes = [0; HEADER_LEN];
            self.memory.read_slice(&mut bytes, self.receive.buffer(slot))?;
            let header = Header::read_from(&mut bytes.as_slice())?;
            self.host_buffer = header.buf_alloc;
            self.host_taken = header.fwd_cnt;
            match Op::from_wire(header.op) {
                Some(Op::Response) => self.open = true,
                Some(Op::Data) => self.got = self.got.wrapping_add(header.len),
                Some(Op::CreditUpdate | Op::CreditRequest | Op::Shutdown) => {}
                Some(Op::Reset) if self.sent == TOTAL => {}
                other => bail!("the device says {other:?}"),
            }
            self.receive.add(&self.memory, slot, LARGEST, WRITABLE)?;
            moved = true;
        }
        Ok(moved)
    }

    /// Until the device has something to do; as the event loop does it. For a short time only: the
    /// end of the host's thread is no event.
    fn wait(&mut self) -> Result<()> {
        let sources = self.device.sources();
        let kicks = self.interrupt.kicks();
        let watched =
            sources.iter().map(|(source, _)| *source).chain(kicks.iter().map(AsFd::as_fd));
        let mut events: Vec<_> = watched.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        poll(&mut events, 10_u16)?;
        let count = sources.len();
        for kick in kicks {
            // EAGAIN: it was another.
            let _ = kick.read();
        }
        for index in 0..count {
            self.device.on_source(index, EpollFlags::EPOLLIN);
        }
        Ok(())
    }
}
