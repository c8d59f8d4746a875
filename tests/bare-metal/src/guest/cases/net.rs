//! The network device: virtio 1.2 §5.1. The host's end of the tap is a Linux with the address of
//! [`HOST`], which answers ARP and pings.

use super::Cases;
use crate::guest::memory::{self, PAGE};
use crate::guest::serial::say;
use crate::guest::virtio::{Buffer, Device, Queue, feature, kind};
use crate::guest::{boot, clock};

pub const CASES: Cases = &[
    ("net-config", config),
    ("net-arp", arp),
    ("net-ping", ping),
    ("net-ping-interrupt", ping_interrupt),
    ("net-receive-ring-full", receive_ring_full),
    ("net-odd-frames", odd_frames),
    ("net-reset", reset),
    ("net-spoof", spoof),
    ("net-mergeable", mergeable),
];

/// VIRTIO_NET_F_MAC, VIRTIO_NET_F_MRG_RXBUF. virtio 1.2 §5.1.3.
const F_MAC: u64 = 1 << 5;
const F_MRG_RXBUF: u64 = 1 << 15;
/// virtio_net_hdr of version 1. virtio 1.2 §5.1.6.
const HEADER: u64 = 12;
const GUEST: [u8; 4] = [10, 0, 0, 2];
const HOST: [u8; 4] = [10, 0, 0, 1];
const BROADCAST: [u8; 6] = [0xff; 6];
const BUFFER: u64 = 2048;
const ARP: [u8; 2] = [8, 6];
const IPV4: [u8; 2] = [8, 0];

struct Card {
    device: Device,
    receive: Queue,
    send: Queue,
    mac: [u8; 6],
    buffers: u64,
    frame: u64,
}

impl Card {
    #[track_caller]
    fn start(wanted: u64, size: u16) -> Self {
        let device = Device::find(kind::NET);
        let features = device.negotiate(wanted | F_MAC);
        let receive = device.queue(0, size, features);
        let send = device.queue(1, size, features);
        device.ready();
        let mac = core::array::from_fn(|nth| device.config8(nth as u64));
        let buffers = memory::take(u64::from(receive.rings.size) * BUFFER);
        Self { device, receive, send, mac, buffers, frame: memory::take(16 * PAGE) }
    }

    /// Gives all receive buffers to the device.
    fn fill(&mut self) {
        while self.receive.free() > 0 {
            let nth = self.receive.rings.size - self.receive.free();
            let at = self.buffers + u64::from(nth) * BUFFER;
            self.receive.add(&[Buffer::fill(at, 2048)]);
        }
        self.receive.kick();
    }

    /// Sends a frame that was put together behind the header.
    #[track_caller]
    fn send(&mut self, len: u64) {
        memory::fill(self.frame, 0, HEADER);
        let len = u32::try_from(HEADER + len.max(60)).expect("a frame");
        self.send.ask(&[Buffer::out(self.frame, len)]);
    }

    fn put(&self, at: u64, bytes: &[u8]) {
        memory::put(self.frame + HEADER + at, bytes);
    }

    /// The next frame with this type, with its address. Its buffer stays with us.
    #[track_caller]
    fn receive(&mut self, wanted: [u8; 2], ms: u64) -> Option<(u64, u64)> {
        let end = clock::after_ms(ms);
        while !end.is_past() {
            let Some((head, len)) = self.receive.wait_ms(ms) else { break };
            let at = memory::read64(self.receive.rings.descriptor(head));
            assert!(u64::from(len) >= HEADER + 14, "a frame of {len} bytes with its header");
            let is = memory::bytes(at + HEADER + 12, 2);
            if is == wanted {
                return Some((at + HEADER, u64::from(len) - HEADER));
            }
            self.receive.add(&[Buffer::fill(at, 2048)]);
            self.receive.kick();
        }
        None
    }

    /// Asks who has the host's address.
    #[track_caller]
    fn resolve(&mut self) -> [u8; 6] {
        self.put(0, &BROADCAST);
        self.put(6, &self.mac);
        self.put(12, &ARP);
        // Ethernet, IPv4, lengths, request. RFC 826.
        self.put(14, &[0, 1, 8, 0, 6, 4, 0, 1]);
        self.put(22, &self.mac);
        self.put(28, &GUEST);
        self.put(32, &[0; 6]);
        self.put(38, &HOST);
        self.send(42);
        loop {
            let (frame, len) = self.receive(ARP, clock::PATIENCE_MS).expect("the host answers ARP");
            assert!(len >= 42, "{len} bytes");
            let (operation, sender) = (memory::bytes(frame + 20, 2), memory::bytes(frame + 28, 4));
            let host = core::array::from_fn(|nth| memory::read8(frame + 22 + nth as u64));
            let at = frame - HEADER;
            self.receive.add(&[Buffer::fill(at, 2048)]);
            self.receive.kick();
            if operation == [0, 2] && sender == HOST {
                return host;
            }
        }
    }

    /// Puts a ping with so much payload together.
    fn write_ping(&self, host: [u8; 6], sequence: u16, payload: u16) -> u64 {
        self.put(0, &host);
        self.put(6, &self.mac);
        self.put(12, &IPV4);
        let total = 28 + payload;
        // RFC 791: version, length, no fragment, 64 hops, ICMP.
        self.put(14, &[0x45, 0, total.to_be_bytes()[0], total.to_be_bytes()[1]]);
        self.put(18, &[0, 0, 0x40, 0, 64, 1, 0, 0]);
        self.put(26, &GUEST);
        self.put(30, &HOST);
        let sum = checksum(self.frame + HEADER + 14, 20);
        self.put(24, &sum.to_be_bytes());
        // RFC 792: echo.
        self.put(34, &[8, 0, 0, 0, 0x77, 0x77]);
        self.put(40, &sequence.to_be_bytes());
        memory::fill(self.frame + HEADER + 42, sequence.to_le_bytes()[0], payload.into());
        let sum = checksum(self.frame + HEADER + 34, 8 + u64::from(payload));
        self.put(36, &sum.to_be_bytes());
        u64::from(total) + 14
    }
}

/// RFC 1071.
fn checksum(at: u64, len: u64) -> u16 {
    let mut sum = 0_u32;
    for offset in 0..len {
        let byte = u32::from(memory::read8(at + offset));
        sum += if offset % 2 == 0 { byte << 8 } else { byte };
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

fn config() {
    let card = Card::start(0, 16);
    let [a, b, c, d, e, f] = card.mac;
    say!("mac {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}");
}

fn arp() {
    let mut card = Card::start(0, 16);
    card.fill();
    let host = card.resolve();
    assert_ne!(host, [0; 6], "an address of nobody");
    say!("the host answers");
}

/// Pings of all lengths, their answers compared byte by byte.
fn pings(mut card: Card, count: u16) {
    card.fill();
    let host = card.resolve();
    for sequence in 0..count {
        let payload = 56 + (sequence % 8) * 200;
        let len = card.write_ping(host, sequence, payload.min(1472));
        card.send(len);
        let (frame, got) = card.receive(IPV4, clock::PATIENCE_MS).expect("the host answers pings");
        assert!(got >= len, "{got} of {len} bytes");
        assert_eq!(memory::read8(frame + 34), 0, "an answer");
        assert_eq!(memory::bytes(frame + 40, 2), sequence.to_be_bytes(), "the sequence");
        let sent = card.frame + HEADER + 42;
        let want = memory::bytes(sent, usize::from(payload.min(1472)));
        assert_eq!(memory::bytes(frame + 42, want.len()), want, "the payload");
        card.receive.add(&[Buffer::fill(frame - HEADER, 2048)]);
        card.receive.kick();
    }
    say!("pings answered {count}");
}

fn ping() {
    let count = boot::number("pings").unwrap_or(200);
    pings(Card::start(0, 64), u16::try_from(count).expect("pings=N"));
}

fn ping_interrupt() {
    let mut card = Card::start(feature::EVENT_INDEX, 64);
    let line = card.receive.use_interrupts();
    pings(card, 50);
    assert!(line.count() > 0, "no interrupt came");
}

/// No buffer to receive while the host has much to say: the card still sends, and once there are
/// buffers it receives. The tap's queue is full by then.
fn receive_ring_full() {
    let mut card = Card::start(0, 4);
    card.fill();
    let host = card.resolve();
    // Four buffers, 1500 answers; the tap holds 1000.
    for sequence in 0..1500 {
        let len = card.write_ping(host, sequence, 56);
        card.send(len);
    }
    let mut answers = 0;
    while let Some((frame, _)) = card.receive(IPV4, 500) {
        answers += 1;
        card.receive.add(&[Buffer::fill(frame - HEADER, 2048)]);
        card.receive.kick();
    }
    assert!(answers > 4, "{answers} answers");
    // And it is as it was.
    let len = card.write_ping(host, 2000, 100);
    card.send(len);
    card.receive(IPV4, clock::PATIENCE_MS).expect("a ping after all that is answered");
    say!("received again");
}

/// Frames that are none, and buffers that hold none.
fn odd_frames() {
    let mut card = Card::start(0, 16);
    let small = memory::take(PAGE);
    // Buffers of no use to receive into, before good ones.
    for len in [0, 1, 12, 13] {
        card.receive.add(&[Buffer::fill(small, len)]);
    }
    card.receive.add(&[Buffer::out(small, 2048)]);
    card.receive.kick();
    for len in [0, 1, 11, 12, 13, 25] {
        card.send.ask(&[Buffer::out(card.frame, len)]);
    }
    // Longer than anything that a tap takes.
    card.send.ask(&[Buffer::out(card.frame, 16 * 4096); 15]);
    card.send.ask(&[Buffer::fill(card.frame, 100)]);
    // Headers that lie about segments and checksums.
    for byte in [0xff, 0x7f, 1] {
        memory::fill(card.frame, byte, HEADER);
        card.send.ask(&[Buffer::out(card.frame, 200)]);
    }
    let mut again = Card::start(0, 16);
    again.fill();
    again.resolve();
}

/// Frames with the address of somebody else: `frames=N`.
fn spoof() {
    let mut card = Card::start(0, 16);
    card.fill();
    card.resolve();
    let own = card.mac;
    for _ in 0..boot::number("frames").unwrap_or(3) {
        card.put(6, &[2, 0, 0, 0, 0, 0x77]);
        card.send(60);
    }
    card.mac = own;
    card.resolve();
}

/// A reset with buffers in flight, while frames come.
fn reset() {
    for size in [16, 1, 4] {
        let mut card = Card::start(0, size);
        card.fill();
        let host = card.resolve();
        let len = card.write_ping(host, 1, 56);
        card.send(len);
        card.device.reset();
        memory::fill(card.buffers, 0x5a, u64::from(size) * BUFFER);
        clock::pause_ms(20);
        for offset in (0..u64::from(size) * BUFFER).step_by(8) {
            let word = memory::read64(card.buffers + offset);
            assert_eq!(word, 0x5a5a_5a5a_5a5a_5a5a, "written after a reset");
        }
    }
}

/// With mergeable buffers a frame may take several.
fn mergeable() {
    let mut card = Card::start(F_MRG_RXBUF, 16);
    assert!(card.device.offers() & F_MRG_RXBUF != 0, "no mergeable buffers are offered");
    card.fill();
    let host = card.resolve();
    // Small buffers from here on: those of 2048 bytes are used up by pings first.
    card = Card::start(F_MRG_RXBUF, 16);
    let area = memory::take(PAGE);
    for nth in 0..16 {
        card.receive.add(&[Buffer::fill(area + nth * 256, 256)]);
    }
    card.receive.kick();
    let len = card.write_ping(host, 3, 1000);
    card.send(len);
    let (head, first) = card.receive.wait();
    let at = memory::read64(card.receive.rings.descriptor(head));
    let buffers = memory::read16(at + 10);
    let mut total = first;
    for _ in 1..buffers {
        total += card.receive.wait().1;
    }
    say!("buffers {buffers} bytes {total}");
    assert_eq!(u64::from(total), len + HEADER, "the whole frame");
    assert_eq!(buffers, 5);
}
