//! The block device by itself: a driver on plain memory, without KVM, that keeps the queue filled.
//! Beside each figure, what one thread gets of the same file by plain reads and writes, from the
//! page cache in both cases: the difference is the device.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use husk_vmm::Memory;
use husk_vmm::rate_limit::Limits;
use husk_vmm::virtio::blk::{self, Config, EngineKind};
use husk_vmm::virtio::{Activation, Device, Interrupt};
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::epoll::EpollFlags;
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress};

use super::report::{Report, median, ratio};

const FILE_LEN: u64 = 256 << 20;
const MEMORY_LEN: usize = 32 << 20;
const QUEUE_SIZE: u16 = 128;
/// Requests in flight: what a file system's read-ahead and writeback come to.
const DEPTH: u16 = 32;
/// Of the queue in memory, and of headers, status bytes and data.
const DESCRIPTORS: u64 = 0x1000;
const AVAILABLE: u64 = 0x2000;
const USED: u64 = 0x3000;
const HEADERS: u64 = 0x4000;
const STATUSES: u64 = 0x8000;
const DATA: u64 = 0x10_0000;
const DATA_STRIDE: u64 = 128 << 10;
/// VIRTIO_BLK_F_FLUSH, as Linux takes it: without, each write would have to be on stable storage.
const FLUSH: u64 = 1 << 9;

/// What is asked for.
#[derive(Debug, Clone, Copy)]
struct Load {
    name: &'static str,
    writes: bool,
    len: u32,
    random: bool,
    total: u64,
}

const LOADS: [Load; 4] = [
    Load {
        name: "sequential 128 KiB reads",
        writes: false,
        len: 128 << 10,
        random: false,
        total: FILE_LEN,
    },
    Load {
        name: "sequential 128 KiB writes",
        writes: true,
        len: 128 << 10,
        random: false,
        total: FILE_LEN,
    },
    Load { name: "random 4 KiB reads", writes: false, len: 4096, random: true, total: 32 << 20 },
    Load { name: "random 4 KiB writes", writes: true, len: 4096, random: true, total: 32 << 20 },
];

impl Load {
    fn requests(&self) -> u64 {
        self.total / u64::from(self.len)
    }

    /// Where request `index` goes, in bytes.
    fn offset(&self, index: u64) -> u64 {
        let places = FILE_LEN / u64::from(self.len);
        // Odd, so that it visits each place once before it comes back.
        let place = if self.random { index.wrapping_mul(0x9e37_79b9_7f4a_7c15) } else { index };
        place % places * u64::from(self.len)
    }

    fn mib_per_second(&self, time: Duration) -> f64 {
        let mib = u32::try_from(self.total >> 20).unwrap_or(u32::MAX);
        f64::from(mib) / time.as_secs_f64()
    }
}

/// Throughput of both engines, each beside the file's own.
pub fn throughput(runs: usize, report: &mut Report) -> Result<()> {
    let file = tempfile::tempfile().context("a file to measure")?;
    let block = vec![0x5a; 1 << 20];
    for at in (0..FILE_LEN).step_by(block.len()) {
        file.write_all_at(&block, at)?;
    }
    for load in LOADS {
        let mut plain_times = Vec::new();
        let mut times = [Vec::new(), Vec::new()];
        for _ in 0..runs {
            plain_times.push(plain(&file, &load)?);
            for (engine, times) in
                [EngineKind::IoUring, EngineKind::Threads].into_iter().zip(&mut times)
            {
                match Driver::new(&file, engine) {
                    Ok(mut driver) => times.push(driver.run(&load)?),
                    Err(error) => println!("SKIPPED: disk on {engine:?}: {error:#}"),
                }
            }
        }
        let plain = median(&plain_times);
        for (name, times) in ["io_uring", "threads"].into_iter().zip(times) {
            if times.is_empty() {
                continue;
            }
            let time = median(&times);
            let name = format!("disk, {name}, {}", load.name);
            report.add(&name, load.mib_per_second(time), "MiB/s", None);
            report.add(&format!("{name}, time of plain ones"), ratio(time, plain), "x", None);
        }
    }
    Ok(())
}

/// One thread, one call after the other.
fn plain(file: &File, load: &Load) -> Result<Duration> {
    let mut buffer = vec![0; usize::try_from(load.len)?];
    let began = Instant::now();
    for index in 0..load.requests() {
        if load.writes {
            file.write_all_at(&buffer, load.offset(index))?;
        } else {
            file.read_exact_at(&mut buffer, load.offset(index))?;
        }
    }
    Ok(began.elapsed())
}

/// The driver's side of one disk.
struct Driver {
    memory: Memory,
    device: blk::Device,
    interrupt: Arc<Interrupt>,
    available: u16,
    used: u16,
}

impl Driver {
    fn new(file: &File, engine: EngineKind) -> Result<Self> {
        let config = Config {
            file: -1,
            serial: "bench".to_owned(),
            read_only: false,
            disposable: false,
            engine,
            limits: Limits::default(),
        };
        let free: blk::engine::OnThread = Arc::new(|| Ok(()));
        let mut device = blk::Device::new(&config, file.try_clone()?.into(), &free)?;
        let memory = Memory::from_ranges(&[(GuestAddress(0), MEMORY_LEN)])?;
        let mut queue = Queue::new(QUEUE_SIZE)?;
        queue.try_set_desc_table_address(GuestAddress(DESCRIPTORS))?;
        queue.try_set_avail_ring_address(GuestAddress(AVAILABLE))?;
        queue.try_set_used_ring_address(GuestAddress(USED))?;
        queue.set_ready(true);
        let interrupt = Arc::new(Interrupt::with_queues(1)?);
        device.activate(Activation {
            memory: memory.clone(),
            queues: vec![Some(queue)],
            features: FLUSH,
            interrupt: Arc::clone(&interrupt),
        })?;
        Ok(Self { memory, device, interrupt, available: 0, used: 0 })
    }

    /// All requests of a load, [`DEPTH`] at a time.
    fn run(&mut self, load: &Load) -> Result<Duration> {
        for slot in 0..DEPTH {
            self.lay_out(slot, load)?;
        }
        let began = Instant::now();
        let (mut sent, mut done) = (0, 0);
        let mut free: Vec<u16> = (0..DEPTH).collect();
        while done < load.requests() {
            while sent < load.requests() {
                let Some(slot) = free.pop() else { break };
                self.send(slot, load, sent)?;
                sent += 1;
            }
            self.device.on_kick(0);
            let before = done;
            self.take_used(&mut free, &mut done)?;
            if done == before {
                self.wait()?;
                self.take_used(&mut free, &mut done)?;
            }
        }
        Ok(began.elapsed())
    }

    /// Header, data and status of a slot, once for all.
    fn lay_out(&self, slot: u16, load: &Load) -> Result<()> {
        let at = u64::from(slot);
        // VIRTQ_DESC_F_NEXT and VIRTQ_DESC_F_WRITE. virtio 1.2 §2.7.5.
        let data_flags = if load.writes { 1 } else { 1 | 2 };
        let parts: [(u64, u32, u16); 3] = [
            (HEADERS + at * 16, 16, 1),
            (DATA + at * DATA_STRIDE, load.len, data_flags),
            (STATUSES + at, 1, 2),
        ];
        for (index, (addr, len, flags)) in (slot * 3..).zip(parts) {
            let place = DESCRIPTORS + u64::from(index) * 16;
            self.memory.write_obj(addr, GuestAddress(place))?;
            self.memory.write_obj(len, GuestAddress(place + 8))?;
            self.memory.write_obj(flags, GuestAddress(place + 12))?;
            self.memory.write_obj(index + 1, GuestAddress(place + 14))?;
        }
        self.memory.write_obj(u32::from(load.writes), GuestAddress(HEADERS + at * 16))?;
        Ok(())
    }

    fn send(&mut self, slot: u16, load: &Load, index: u64) -> Result<()> {
        let sector = load.offset(index) / 512;
        self.memory.write_obj(sector, GuestAddress(HEADERS + u64::from(slot) * 16 + 8))?;
        self.memory.write_obj(0xee_u8, GuestAddress(STATUSES + u64::from(slot)))?;
        let place = AVAILABLE + 4 + u64::from(self.available % QUEUE_SIZE) * 2;
        self.memory.write_obj(slot * 3, GuestAddress(place))?;
        self.available = self.available.wrapping_add(1);
        self.memory.write_obj(self.available, GuestAddress(AVAILABLE + 2))?;
        Ok(())
    }

    fn take_used(&mut self, free: &mut Vec<u16>, done: &mut u64) -> Result<()> {
        let index: u16 = self.memory.read_obj(GuestAddress(USED + 2))?;
        while self.used != index {
            let place = USED + 4 + u64::from(self.used % QUEUE_SIZE) * 8;
            let head: u32 = self.memory.read_obj(GuestAddress(place))?;
            let slot = u16::try_from(head / 3)?;
            let status: u8 = self.memory.read_obj(GuestAddress(STATUSES + u64::from(slot)))?;
            if status != 0 {
                bail!("the disk answers {status}");
            }
            free.push(slot);
            self.used = self.used.wrapping_add(1);
            *done += 1;
        }
        Ok(())
    }

    /// Until the engine has something; as the event loop does it.
    fn wait(&mut self) -> Result<()> {
        let sources = self.device.sources();
        let (engine, _) = sources.first().ok_or_else(|| anyhow!("a disk without an engine"))?;
        let kick = self.interrupt.kicks().first().map_or(*engine, AsFd::as_fd);
        let mut events =
            [PollFd::new(*engine, PollFlags::POLLIN), PollFd::new(kick, PollFlags::POLLIN)];
        if poll(&mut events, 10_000u16)? == 0 {
            bail!("the disk does nothing");
        }
        if let Some(kick) = self.interrupt.kicks().first() {
            // EAGAIN: it was the engine.
            let _ = kick.read();
        }
        self.device.on_source(0, EpollFlags::EPOLLIN);
        Ok(())
    }
}
