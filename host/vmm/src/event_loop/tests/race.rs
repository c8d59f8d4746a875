//! Tests: processors that do anything to a device at the same time: one starts and resets it, one
//! pokes at its registers, one writes into its rings and buffers while the device works on them.
//! Every device is there afterwards, and starts.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use vm_memory::{Bytes, GuestAddress};

use super::EventLoop;
use crate::Memory;
use crate::bus::Registers;
use crate::channel::Channel;
use crate::memory::{Ram, Size};
use crate::rate_limit::Limits;
use crate::virtio::blk::engine::OnThread;
use crate::virtio::blk::{self, EngineKind};
use crate::virtio::device::Device;
use crate::virtio::mmio::Transport;
use crate::virtio::testing::{MEMORY_BYTES, VERSION_1, memory};
use crate::virtio::{balloon, console, fs, mem, rng, vsock};

/// Starts of the device.
const ROUNDS: usize = 150;
/// Turns of a device that has nothing more to do; more is a device that is never done.
const LAST_TURNS: usize = 100_000;
/// Where rings lie: few places, so that they lie upon each other and upon buffers.
const PLACES: [u64; 6] = [0x0, 0x1000, 0x1100, 0x2000, 0x8000, 0xa000];
/// Where they lie mostly, those of all queues.
const RINGS: [u64; 3] = [0x0, 0x8000, 0xa000];

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn word(&mut self) -> u32 {
        self.next().to_le_bytes()[..4].iter().fold(0, |word, &byte| word << 8 | u32::from(byte))
    }
}

fn set(transport: &Transport, register: u64, value: u32) {
    transport.write(register, &value.to_le_bytes());
}

fn status(transport: &Transport) -> u32 {
    let mut data = [0; 4];
    transport.read(0x070, &mut data);
    u32::from_le_bytes(data)
}

/// Virtio 1.2 §3.1.1, with queues at `place`, as the driver of tests has it.
fn start(transport: &Transport, features: u64, mut queue: impl FnMut(u64) -> (u32, [u64; 3])) {
    for value in [0, 1, 3] {
        set(transport, 0x070, value);
    }
    for half in [0, 1] {
        set(transport, 0x024, half);
        set(transport, 0x020, u32::try_from(features >> (32 * half) & 0xffff_ffff).unwrap());
    }
    set(transport, 0x070, 11);
    for index in 0..transport.kicks().len() as u64 {
        let (size, rings) = queue(index);
        set(transport, 0x030, u32::try_from(index).unwrap());
        set(transport, 0x038, size);
        for (register, address) in [0x080, 0x090, 0x0a0].into_iter().zip(rings) {
            set(transport, register, u32::try_from(address).unwrap());
            set(transport, register + 4, 0);
        }
        set(transport, 0x044, 1);
    }
    set(transport, 0x070, 15);
}

fn offered(transport: &Transport) -> u64 {
    let half = |half: u32| {
        set(transport, 0x014, half);
        let mut data = [0; 4];
        transport.read(0x010, &mut data);
        u64::from(u32::from_le_bytes(data))
    };
    half(0) | half(1) << 32
}

fn starter(transport: &Transport, offers: u64, turns: &AtomicUsize) {
    let mut random = Random(0x1234_5678_9abc_def1);
    for _ in 0..ROUNDS {
        let features = offers & random.next() | VERSION_1;
        start(transport, features, |_| {
            let odd = [0; 3].map(|_| PLACES[usize::try_from(random.below(6)).unwrap()]);
            let rings = if random.below(4) == 0 { odd } else { RINGS };
            (1 << random.below(5), rings)
        });
        // The device gets some turns, and is then interrupted in one.
        let until = turns.load(Ordering::Relaxed) + usize::try_from(random.below(12)).unwrap();
        let deadline = Instant::now() + Duration::from_millis(5);
        while turns.load(Ordering::Relaxed) < until && Instant::now() < deadline {
            set(transport, 0x050, u32::try_from(random.below(4)).unwrap());
            std::thread::yield_now();
        }
        if random.below(2) == 0 {
            set(transport, 0x070, 0);
        }
    }
}

fn poker(transport: &Transport, busy: &AtomicUsize) {
    let mut random = Random(0xfeed_beef_0bad_cafe);
    let mut data = [0; 8];
    while busy.load(Ordering::Relaxed) > 0 {
        let register = random.below(0x180);
        match random.below(200) {
            0 => set(transport, register & !3, random.word()),
            1 => transport.write(register, &random.next().to_le_bytes()),
            2 => transport.read(register, &mut data),
            3 => set(transport, 0x064, 3),
            4 => drop(transport.counters()),
            _ => set(transport, 0x050, u32::try_from(random.below(4)).unwrap()),
        }
        std::thread::yield_now();
    }
}

fn scribbler(memory: &Memory, busy: &AtomicUsize) {
    let mut random = Random(0x0dd_ba11_5eed);
    // Of a disk: read or write, sector 0 or 1.
    for address in (0x4000..0x5000).step_by(16) {
        memory.write_obj(random.below(2), GuestAddress(address)).unwrap();
    }
    while busy.load(Ordering::Relaxed) > 0 {
        let (place, bytes) = match random.below(8) {
            0 => (
                PLACES[usize::try_from(random.below(6)).unwrap()],
                random.next().to_le_bytes().to_vec(),
            ),
            1..=3 => (RINGS[1], available(&mut random)),
            4 | 5 => (0, request(&mut random)),
            _ => (16 * random.below(16), descriptor(&mut random)),
        };
        memory.write_slice(&bytes, GuestAddress(place)).unwrap();
        std::thread::yield_now();
    }
}

/// Flags, index, heads.
fn available(random: &mut Random) -> Vec<u8> {
    let words = [random.below(2), random.below(20)];
    let heads = [0; 16].map(|_| random.below(16));
    let ring = words.iter().chain(&heads).map(|&word| u16::try_from(word).unwrap());
    ring.flat_map(u16::to_le_bytes).collect()
}

/// A chain as disks want it, to read, to read or write, to write; or as memory devices do.
fn request(random: &mut Random) -> Vec<u8> {
    let data = random.below(2) << 1;
    let disk = [(0x4000, 16, 1, 1), (0x5000, 512, 1 | data, 2), (0x6000, 1, 2, 0)];
    let memory = [(0x4000, 24, 1, 1), (0x6000, 10, 2, 0), (0x6000, 16, 2, 0)];
    let chain = if random.below(2) == 0 { disk } else { memory };
    let words = chain.map(|(address, len, flags, next): (u64, u64, u64, u64)| {
        [address.to_le_bytes(), (len | flags << 32 | next << 48).to_le_bytes()].concat()
    });
    words.concat()
}

/// Mostly one of a buffer that is there, of which the rings may be part.
fn descriptor(random: &mut Random) -> Vec<u8> {
    let address = if random.below(16) == 0 { random.next() } else { random.below(0x1_0000) };
    let len = [0, 8, 16, 64, 512, 4096][usize::try_from(random.below(6)).unwrap()];
    let flags = if random.below(8) == 0 { random.below(8) } else { random.below(4) };
    let next = random.below(16);
    [address.to_le_bytes(), (len | flags << 32 | next << 48).to_le_bytes()].concat()
}

fn race(device: impl Device, memory: &Memory) {
    let kind = device.kind();
    let transport = Arc::new(Transport::new(Box::new(device), memory.clone()).unwrap());
    let mut events = EventLoop::new(std::slice::from_ref(&transport)).unwrap();
    let offers = offered(&transport);
    let (busy, turns) = (AtomicUsize::new(1), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            starter(&transport, offers, &turns);
            busy.fetch_sub(1, Ordering::Relaxed);
        });
        scope.spawn(|| poker(&transport, &busy));
        scope.spawn(|| scribbler(memory, &busy));
        while busy.load(Ordering::Relaxed) > 0 {
            turns.fetch_add(events.dispatch().unwrap(), Ordering::Relaxed);
        }
    });
    memory.write_slice(&vec![0; 0x8_0000], GuestAddress(0)).unwrap();
    start(&transport, VERSION_1, |index| {
        let base = index * 0x1_0000;
        (8, [base, base + 0x8000, base + 0xa000])
    });
    let last = (0..LAST_TURNS).find(|_| events.dispatch().unwrap() == 0);
    assert!(last.is_some(), "{kind:?} is never done");
    assert_eq!(status(&transport), 15, "{kind:?}: {:?}", transport.counters());
    eprintln!("{kind:?}: {:?}", transport.counters());
}

#[test]
fn entropy_outlives_processors_that_race() {
    race(rng::Device::new(), &memory());
}

#[test]
fn disk_outlives_processors_that_race() {
    for engine in [EngineKind::default(), EngineKind::Threads] {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 20).unwrap();
        let config = blk::Config {
            file: file.as_raw_fd(),
            serial: "root".to_owned(),
            read_only: false,
            disposable: false,
            engine,
            limits: Limits::default(),
        };
        let on_thread: OnThread = Arc::new(|| Ok(()));
        race(blk::Device::new(&config, OwnedFd::from(file), &on_thread).unwrap(), &memory());
    }
}

#[test]
fn console_outlives_processors_that_race() {
    let (input, mut writer) = std::io::pipe().unwrap();
    std::io::Write::write_all(&mut writer, &[b'x'; 4096]).unwrap();
    let (output, writer_of_guest) = std::io::pipe().unwrap();
    let reader = std::thread::spawn(move || std::io::copy(&mut { output }, &mut std::io::sink()));
    race(
        console::Device::new(writer_of_guest.into(), Some(input.into()), None).unwrap(),
        &memory(),
    );
    reader.join().unwrap().unwrap();
}

#[test]
fn vsock_outlives_processors_that_race() {
    let (ours, theirs) = Channel::pair().unwrap();
    let handle = crate::vsock::relay::serve(ours).unwrap();
    let device = vsock::Device::new(crate::vsock::testing::CONFIG, theirs).unwrap();
    let _stream = handle.connect(1).unwrap();
    race(device, &memory());
}

#[test]
fn balloon_outlives_processors_that_race() {
    let config = balloon::Config { mib: 1, page_reporting: true, ..balloon::Config::default() };
    race(balloon::Device::new(config, 64).unwrap(), &memory());
}

#[test]
fn memory_device_outlives_processors_that_race() {
    let ram = Ram::create_on_host(Size { mib: 32, hotplug_mib: 128 }, 160).unwrap();
    let region = *ram.hotplug().unwrap().region();
    let mut device = mem::Device::new(mem::Config { mib: 64 }, &region).unwrap();
    device.set_usable_len(region.len);
    race(device, ram.guest());
}

#[test]
fn file_system_outlives_processors_that_race() {
    let (socket, server) = fs::testing::honest();
    let config = fs::Config { socket: -1, tag: "share".to_owned(), request_queues: 1 };
    race(fs::Device::new(&config, socket.into()).unwrap(), &memory());
    server.join().unwrap();
}

const _: () = assert!(MEMORY_BYTES >= 0x8_0000);
