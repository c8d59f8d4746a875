//! The vsock device: virtio 1.2 §5.10. The host listens on `port=N` and sends everything back, if
//! it accepts at all.

use super::Cases;
use crate::guest::memory::{self, PAGE};
use crate::guest::serial::say;
use crate::guest::virtio::{Buffer, Device, FLAG_WRITE, Queue, feature, kind};
use crate::guest::{boot, clock};

pub const CASES: Cases = &[
    ("vsock-config", config),
    ("vsock-echo", echo),
    ("vsock-echo-interrupt", echo_interrupt),
    ("vsock-refused", refused),
    ("vsock-credit", credit),
    ("vsock-overrun", overrun),
    ("vsock-malformed", malformed),
    ("vsock-flood", flood),
    ("vsock-backlog", backlog),
    ("vsock-accept", accept),
    ("vsock-reset", reset),
    ("vsock-no-receive-buffers", no_receive_buffers),
];

/// Operations. virtio 1.2 §5.10.6.
pub const REQUEST: u16 = 1;
pub const RESPONSE: u16 = 2;
pub const RST: u16 = 3;
pub const SHUTDOWN: u16 = 4;
pub const RW: u16 = 5;
pub const CREDIT_UPDATE: u16 = 6;
pub const CREDIT_REQUEST: u16 = 7;
const STREAM: u16 = 1;
pub const HEADER: u64 = 44;
const BUFFER: u64 = 4096;
const OUR_PORT: u32 = 1024;
/// What we say that we can hold.
const OUR_CREDIT: u32 = 256 << 10;

/// The device, and one connection's numbers.
pub struct Socket {
    pub device: Device,
    receive: Queue,
    pub send: Queue,
    guest: u64,
    host: u64,
    pub port: u32,
    pub our_port: u32,
    /// The header to send, and what follows.
    pub out: u64,
    received: u32,
    pub sent: u32,
    /// The peer's buffer, and how much it has taken out of it.
    peer_buffer: u32,
    peer_taken: u32,
}

/// A packet's address, operation and length.
#[derive(Clone, Copy)]
pub struct Packet {
    pub at: u64,
    pub operation: u16,
    pub len: u32,
}

impl Socket {
    #[track_caller]
    pub fn start(wanted: u64) -> Self {
        let device = Device::find(kind::VSOCK);
        let features = device.negotiate(wanted);
        let receive = device.queue(0, 64, features);
        let send = device.queue(1, 64, features);
        let _events = device.queue(2, 4, features);
        device.ready();
        let mut socket = Self {
            device,
            receive,
            send,
            guest: device.config64(0),
            host: boot::number("host-cid").unwrap_or(2),
            port: u32::try_from(boot::number("port").unwrap_or(5000)).expect("port=N"),
            our_port: OUR_PORT,
            out: memory::take(PAGE + (128 << 10)),
            received: 0,
            sent: 0,
            peer_buffer: 0,
            peer_taken: 0,
        };
        socket.give_buffers();
        socket
    }

    fn give_buffers(&mut self) {
        let area = memory::take(u64::from(self.receive.rings.size) * BUFFER);
        for nth in 0..u64::from(self.receive.rings.size) {
            self.receive.add(&[Buffer::fill(area + nth * BUFFER, 4096)]);
        }
        self.receive.kick();
    }

    /// Writes a packet's header.
    pub fn write_header(&self, operation: u16, flags: u32, len: u32) {
        memory::write64(self.out, self.guest);
        memory::write64(self.out + 8, self.host);
        memory::write32(self.out + 16, self.our_port);
        memory::write32(self.out + 20, self.port);
        memory::write32(self.out + 24, len);
        memory::write16(self.out + 28, STREAM);
        memory::write16(self.out + 30, operation);
        memory::write32(self.out + 32, flags);
        memory::write32(self.out + 36, OUR_CREDIT);
        memory::write32(self.out + 40, self.received);
    }

    /// Sends a packet, with payload from behind its header.
    #[track_caller]
    pub fn packet(&mut self, operation: u16, flags: u32, len: u32) {
        self.write_header(operation, flags, len);
        let chain = [Buffer::out(self.out, 44), Buffer::out(self.out + PAGE, len)];
        self.send.ask(if len > 0 { &chain } else { &chain[..1] });
    }

    /// The next packet to us, its credit noted.
    #[track_caller]
    pub fn next(&mut self, ms: u64) -> Option<Packet> {
        let (head, len) = self.receive.wait_ms(ms)?;
        let at = memory::read64(self.receive.rings.descriptor(head));
        assert!(u64::from(len) >= HEADER, "a packet of {len} bytes");
        let packet =
            Packet { at, operation: memory::read16(at + 30), len: memory::read32(at + 24) };
        assert_eq!(u64::from(packet.len) + HEADER, u64::from(len), "the packet's length");
        assert_eq!(memory::read64(at), self.host, "from another host");
        assert_eq!(memory::read64(at + 8), self.guest, "to another guest");
        if memory::read32(at + 20) == self.our_port {
            self.peer_buffer = memory::read32(at + 36);
            self.peer_taken = memory::read32(at + 40);
        }
        if packet.operation == RW {
            self.received = self.received.wrapping_add(packet.len);
        }
        Some(packet)
    }

    /// Throws away whatever comes within so long.
    #[track_caller]
    pub fn discard(&mut self, ms: u64) {
        while let Some((head, _)) = self.receive.wait_ms(ms) {
            let at = memory::read64(self.receive.rings.descriptor(head));
            self.receive.add(&[Buffer::fill(at, 4096)]);
            self.receive.kick();
        }
    }

    /// A packet's buffer may be filled again.
    pub fn done(&mut self, packet: Packet) {
        self.give_back(packet);
        self.tell_of_buffers();
    }

    /// Adds a packet's buffer, of which the device does not hear yet.
    pub fn give_back(&mut self, packet: Packet) {
        self.receive.add(&[Buffer::fill(packet.at, 4096)]);
    }

    /// See [`Self::give_back`].
    pub fn tell_of_buffers(&mut self) {
        self.receive.kick();
    }

    /// The next packet, which is one of these.
    #[track_caller]
    pub fn expect(&mut self, operation: u16) -> Packet {
        loop {
            let packet =
                self.next(clock::PATIENCE_MS).unwrap_or_else(|| panic!("no operation {operation}"));
            if packet.operation == operation {
                return packet;
            }
            assert_eq!(packet.operation, CREDIT_UPDATE, "not {operation}");
            self.done(packet);
        }
    }

    #[track_caller]
    pub fn connect(&mut self) {
        self.packet(REQUEST, 0, 0);
        let answer = self.expect(RESPONSE);
        self.done(answer);
    }

    /// Asks for a connection from another port of ours, and returns what the answer is.
    #[track_caller]
    fn ask(&mut self, port: u32) -> u16 {
        self.our_port += 1;
        self.port = port;
        self.packet(REQUEST, 0, 0);
        let answer = self.next(10_000).expect("an answer");
        assert_eq!(memory::read32(answer.at + 20), self.our_port, "the answer to another");
        self.done(answer);
        answer.operation
    }

    /// How much the peer can take.
    pub fn credit(&self) -> u32 {
        self.peer_buffer.saturating_sub(self.sent.wrapping_sub(self.peer_taken))
    }

    /// Ends in both directions, and waits until the peer knows.
    #[track_caller]
    pub fn close(&mut self) {
        self.packet(SHUTDOWN, 3, 0);
        loop {
            let packet = self.next(clock::PATIENCE_MS).expect("the host ends too");
            self.done(packet);
            if packet.operation == RST {
                return;
            }
        }
    }
}

fn config() {
    let socket = Socket::start(0);
    say!("cid {}", socket.guest);
}

/// Sends `bytes=N`, and gets them back in their order.
fn echoes(mut socket: Socket, total: u32) {
    socket.connect();
    let mut got = 0_u32;
    while got < total {
        let room = socket.credit().min(2048).min(total - socket.sent);
        // Never more under way than fits into our own buffers.
        if room > 0 && socket.sent - got < OUR_CREDIT / 2 {
            for offset in 0..u64::from(room) {
                let nth = u64::from(socket.sent) + offset;
                memory::write8(socket.out + PAGE + offset, byte(nth));
            }
            socket.sent += room;
            socket.packet(RW, 0, room);
        }
        let wait = if room == 0 || socket.sent == total { clock::PATIENCE_MS } else { 0 };
        let Some(packet) = socket.next(wait) else {
            assert_eq!(wait, 0, "{got} bytes of {total} came back");
            continue;
        };
        if packet.operation == RW {
            for offset in 0..u64::from(packet.len) {
                let is = memory::read8(packet.at + HEADER + offset);
                assert_eq!(is, byte(u64::from(got) + offset), "byte {}", u64::from(got) + offset);
            }
            got += packet.len;
        } else {
            assert_eq!(packet.operation, CREDIT_UPDATE, "after {got} bytes");
        }
        socket.done(packet);
        if got % (64 << 10) < packet.len {
            socket.packet(CREDIT_UPDATE, 0, 0);
        }
    }
    socket.close();
    say!("bytes back {got}");
}

fn byte(nth: u64) -> u8 {
    (nth.wrapping_mul(31) ^ (nth >> 8)).to_le_bytes()[0]
}

fn total() -> u32 {
    u32::try_from(boot::number("bytes").unwrap_or(256 << 10)).expect("bytes=N")
}

fn echo() {
    echoes(Socket::start(0), total());
}

fn echo_interrupt() {
    let mut socket = Socket::start(feature::EVENT_INDEX);
    socket.connect();
    let line = socket.receive.use_interrupts();
    for nth in 0..10 {
        memory::write8(socket.out + PAGE, nth);
        socket.sent += 1;
        socket.packet(RW, 0, 1);
        let packet = socket.expect(RW);
        assert_eq!(memory::read8(packet.at + HEADER), nth);
        socket.done(packet);
    }
    assert!(line.count() > 0, "no interrupt came");
}

/// Nobody listens there.
fn refused() {
    let mut socket = Socket::start(0);
    for port in [1, 77, u32::MAX] {
        socket.port = port;
        socket.packet(REQUEST, 0, 0);
        let packet = socket.expect(RST);
        socket.done(packet);
    }
}

/// The peer does not read: what it gives credit for is taken, and then there is no more credit.
fn credit() {
    let mut socket = Socket::start(0);
    socket.connect();
    let mut quiet = 0;
    while quiet < 3 {
        let room = socket.credit().min(4096);
        if room > 0 {
            socket.sent += room;
            socket.packet(RW, 0, room);
        } else {
            socket.packet(CREDIT_REQUEST, 0, 0);
        }
        let before = socket.credit();
        while let Some(packet) = socket.next(20) {
            assert_eq!(packet.operation, CREDIT_UPDATE, "after {} bytes", socket.sent);
            socket.done(packet);
        }
        quiet = if before == 0 && socket.credit() == 0 { quiet + 1 } else { 0 };
    }
    say!("credit ends {}", socket.sent > 0);
    assert!(socket.sent < 64 << 20, "{} bytes without a reader", socket.sent);
}

/// More than there is credit for: the connection ends, and the device lives.
fn overrun() {
    let mut socket = Socket::start(0);
    socket.connect();
    let mut sent = 0_u64;
    loop {
        socket.packet(RW, 0, 64 << 10);
        sent += 64 << 10;
        if let Some(packet) = socket.next(1) {
            socket.done(packet);
            if packet.operation == RST {
                break;
            }
        }
        assert!(sent < 256 << 20, "{sent} bytes without credit");
    }
    socket.our_port += 1;
    socket.sent = 0;
    socket.connect();
}

/// Packets that are none. The device works after each.
fn malformed() {
    let mut socket = Socket::start(0);
    let out = socket.out;
    let lies: [(&str, u64, u32); 8] = [
        ("a length that is not there", 24, 4096),
        ("a length of 4 GiB", 24, u32::MAX),
        ("another type", 28, 0x0001_0003),
        ("no operation", 28, 0x0000_0001),
        ("operation 99", 28, 0x0063_0001),
        ("from another guest", 0, 77),
        ("to another host", 8, 77),
        ("all flags", 32, u32::MAX),
    ];
    for (what, offset, value) in lies {
        socket.write_header(RW, 0, 0);
        memory::write32(out + offset, value);
        socket.send.ask(&[Buffer::out(out, 44)]);
        say!("{what}");
        // A reset comes from where the lie was sent to.
        socket.discard(2);
    }
    for len in [0, 1, 43] {
        socket.write_header(RW, 0, 0);
        socket.send.ask(&[Buffer::out(out, len)]);
    }
    socket.write_header(RW, 0, 16);
    socket.send.ask(&[Buffer::fill(out, 44)]);
    for operation in [RESPONSE, RST, SHUTDOWN, RW, CREDIT_UPDATE, CREDIT_REQUEST] {
        socket.packet(operation, 0, 0);
    }
    socket.discard(20);
    // A header in 44 pieces.
    socket.our_port += 1;
    socket.write_header(REQUEST, 0, 0);
    let pieces: [Buffer; 44] = core::array::from_fn(|nth| Buffer::out(out + nth as u64, 1));
    socket.send.ask(&pieces);
    let answer = socket.expect(RESPONSE);
    socket.done(answer);
}

/// More connections than there can be: each is answered, by a response or a reset.
fn flood() {
    let mut socket = Socket::start(0);
    let (mut opened, mut refused) = (0_u32, 0_u32);
    for port in 0..2000 {
        socket.our_port = 10_000 + port;
        socket.packet(REQUEST, 0, 0);
        while let Some(packet) = socket.next(0) {
            count(packet, &mut opened, &mut refused);
            socket.done(packet);
        }
    }
    while opened + refused < 2000 {
        let packet = socket.next(clock::PATIENCE_MS).expect("every request is answered");
        count(packet, &mut opened, &mut refused);
        socket.done(packet);
    }
    say!("opened {opened} refused {refused}");
}

fn count(packet: Packet, opened: &mut u32, refused: &mut u32) {
    match packet.operation {
        RESPONSE => *opened += 1,
        RST => *refused += 1,
        _ => {}
    }
}

/// Two connections may wait for the host, which takes the first of them when it is connected to at
/// the next port.
fn backlog() {
    let mut socket = Socket::start(0);
    let port = socket.port;
    for wanted in [RESPONSE, RESPONSE, RST, RST] {
        assert_eq!(socket.ask(port), wanted, "while nobody takes any");
    }
    assert_eq!(socket.ask(port + 1), RESPONSE);
    let end = clock::after_ms(10_000);
    while socket.ask(port) != RESPONSE {
        assert!(!end.is_past(), "no room though one was taken");
    }
    assert_eq!(socket.ask(port), RST, "room for two though one was taken");
}

/// The host connects to us, and sends what it gets back.
fn accept() {
    let mut socket = Socket::start(0);
    say!("listening");
    let request = socket.next(clock::PATIENCE_MS).expect("the host connects");
    assert_eq!(request.operation, REQUEST);
    assert_eq!(memory::read32(request.at + 20), OUR_PORT, "to another port");
    socket.port = memory::read32(request.at + 16);
    socket.peer_buffer = memory::read32(request.at + 36);
    socket.done(request);
    socket.packet(RESPONSE, 0, 0);
    let data = socket.expect(RW);
    memory::copy(socket.out + PAGE, data.at + HEADER, data.len.into());
    socket.sent += data.len;
    socket.packet(RW, 0, data.len);
    socket.done(data);
    // The host's end is closed: that there is no more, or that there is nobody.
    loop {
        let packet = socket.next(clock::PATIENCE_MS).expect("the host ends");
        socket.done(packet);
        match packet.operation {
            RST => return,
            SHUTDOWN => return socket.packet(RST, 0, 0),
            operation => assert_eq!(operation, CREDIT_UPDATE),
        }
    }
}

/// A reset with an open connection: nothing comes of it later, and a new one opens.
fn reset() {
    for _ in 0..3 {
        let mut socket = Socket::start(0);
        socket.connect();
        socket.packet(RW, 0, 1000);
        socket.device.reset();
        let seen = socket.receive.rings.used_index();
        clock::pause_ms(20);
        assert_eq!(socket.receive.rings.used_index(), seen, "used after a reset");
    }
    let mut socket = Socket::start(0);
    socket.connect();
}

/// The host cannot answer for want of buffers, which holds nothing up for good.
fn no_receive_buffers() {
    let device = Device::find(kind::VSOCK);
    let features = device.negotiate(0);
    let mut receive = device.queue(0, 4, features);
    let mut send = device.queue(1, 8, features);
    let _events = device.queue(2, 4, features);
    device.ready();
    let socket = Socket {
        device,
        receive: Queue::new(device, 0, receive.rings, features),
        send: Queue::new(device, 1, send.rings, features),
        guest: device.config64(0),
        host: boot::number("host-cid").unwrap_or(2),
        port: u32::try_from(boot::number("port").unwrap_or(5000)).expect("port=N"),
        our_port: OUR_PORT,
        out: memory::take(PAGE),
        received: 0,
        sent: 0,
        peer_buffer: 0,
        peer_taken: 0,
    };
    socket.write_header(REQUEST, 0, 0);
    for _ in 0..3 {
        send.add(&[Buffer::out(socket.out, 44)]);
    }
    send.kick();
    clock::pause_ms(30);
    let buffer = memory::take(PAGE);
    // Of no use, then good ones.
    receive.add_raw(buffer, 4096, 0);
    receive.add_raw(buffer, 10, FLAG_WRITE);
    receive.kick();
    clock::pause_ms(10);
    for nth in 0..2 {
        receive.add_raw(buffer + nth * 512, 512, FLAG_WRITE);
    }
    receive.kick();
    let end = clock::after_ms(clock::PATIENCE_MS);
    loop {
        assert!(!end.is_past(), "no answer after all");
        if let Some((_, len)) = receive.pop()
            && u64::from(len) >= HEADER
        {
            break;
        }
    }
}
