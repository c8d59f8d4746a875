//! Tests: the device behind its registers, on taps in network namespaces of their own. The host's
//! end is the kernel's: it answers ARP and echo requests, and holds the other sockets.

use std::collections::VecDeque;
use std::net::UdpSocket;
use std::process::Command;
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};

use super::*;
use crate::rate_limit::Limit;
use crate::virtio::net::core::header::{F_NEEDS_CSUM, GSO_TCPV4, HEADER_LEN, Header};
use crate::virtio::net::tap::testing::create;
use crate::virtio::testing::{Buffer, Driver, EVENT_IDX, INDIRECT_DESC};

const GUEST: Mac = Mac([2, 0, 0, 0, 0, 1]);
const GUEST_IP: [u8; 4] = [10, 0, 0, 2];
const HOST_IP: [u8; 4] = [10, 0, 0, 1];
/// linux/if_ether.h.
const IPV4: [u8; 2] = [8, 0];
const ARP: [u8; 2] = [8, 6];
/// linux/in.h.
const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
/// Where the payload of an IPv4 packet begins in a frame.
const L4: usize = 34;

fn config() -> Config {
    Config {
        tap: -1,
        mac: GUEST,
        mtu: Some(1500),
        anti_spoof: true,
        rx_limits: Limits::default(),
        tx_limits: Limits::default(),
    }
}

/// Runs `test` in a network namespace of its own with a tap, or says why not.
fn with_tap(test: impl FnOnce(OwnedFd) + Send + 'static) {
    let result = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).map_err(|error| format!("network namespace: {error}"))?;
        let tap = create("t0", -1)?;
        for arguments in [
            "link set dev t0 up",
            "addr add 10.0.0.1/24 dev t0",
            "neigh add 10.0.0.2 lladdr 02:00:00:00:00:01 dev t0",
        ] {
            let status = Command::new("ip").args(arguments.split(' ')).status();
            let status = status.map_err(|error| format!("ip: {error}"))?;
            assert!(status.success(), "ip {arguments}");
        }
        test(tap);
        Ok::<_, String>(())
    });
    match result.join() {
        Ok(Ok(())) => {}
        Ok(Err(reason)) => eprintln!("SKIPPED: {reason}"),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// The device with its driver, which speaks Ethernet.
struct Guest {
    driver: Driver,
    buffers: VecDeque<Buffer>,
    packets: VecDeque<(Header, Vec<u8>)>,
    host: Mac,
}

impl Guest {
    fn new(config: &Config, tap: OwnedFd, features: u64) -> Self {
        let device = Device::new(config, tap).unwrap();
        let mut driver = Driver::new(Box::new(device));
        driver.start(features, 64);
        let mut guest =
            Self { driver, buffers: [].into(), packets: [].into(), host: Mac([0xff; 6]) };
        guest.give(16);
        guest.host = guest.ask_host();
        guest
    }

    fn give(&mut self, count: usize) {
        for _ in 0..count {
            let buffer = self.driver.queue(RX_QUEUE).writable(4096);
            self.driver.queue(RX_QUEUE).add(&[buffer]);
            self.buffers.push_back(buffer);
        }
        self.driver.kick(RX_QUEUE);
    }

    fn send(&mut self, header: Header, frame: &[u8]) {
        let queue = self.driver.queue(TX_QUEUE);
        let packet = [queue.readable(&header.to_bytes(0)), queue.readable(frame)];
        queue.add(&packet);
        self.driver.kick(TX_QUEUE);
        self.driver.run();
    }

    fn frame(&self, kind: [u8; 2], payload: &[u8]) -> Vec<u8> {
        [&self.host.0[..], &GUEST.0, &kind, payload].concat()
    }

    /// Takes the packets that came so far.
    fn collect(&mut self) {
        let used = self.driver.queue(RX_QUEUE).take_used();
        for (_, len) in &used {
            let mut bytes = self.driver.queue(RX_QUEUE).read(self.buffers.pop_front().unwrap());
            bytes.truncate(*len as usize);
            let header = Header::from_bytes(*bytes.first_chunk().unwrap());
            self.packets.push_back((header, bytes.split_off(HEADER_LEN)));
        }
        self.give(used.len());
    }

    /// The next packet that is wanted, within 10 seconds; those before it are forgotten.
    fn receive(&mut self, wanted: impl Fn(&[u8]) -> bool) -> (Header, Vec<u8>) {
        loop {
            self.collect();
            while let Some((header, frame)) = self.packets.pop_front() {
                if wanted(&frame) {
                    return (header, frame);
                }
            }
            assert!(self.driver.wait(), "nothing arrived");
        }
    }

    /// The host's address by ARP, RFC 826.
    fn ask_host(&mut self) -> Mac {
        let request = [&[0, 1, 8, 0, 6, 4, 0, 1][..], &GUEST.0, &GUEST_IP, &[0; 6], &HOST_IP];
        let frame = self.frame(ARP, &request.concat());
        self.send(Header::default(), &frame);
        let (header, answer) =
            self.receive(|frame| frame[12..14] == ARP && frame[20..22] == [0, 2]);
        assert_eq!(header, Header::default());
        assert_eq!((&answer[..6], &answer[28..32]), (&GUEST.0[..], &HOST_IP[..]));
        Mac(answer[6..12].try_into().unwrap())
    }
}

fn sum(bytes: &[u8]) -> u32 {
    let words = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum
}

fn checksum(bytes: &[u8]) -> [u8; 2] {
    let [_, _, high, low] = (!sum(bytes)).to_be_bytes();
    [high, low]
}

fn pseudo_header(protocol: u8, len: usize) -> Vec<u8> {
    let len = u16::try_from(len).unwrap().to_be_bytes();
    [&GUEST_IP[..], &HOST_IP, &[0, protocol], &len].concat()
}

/// RFC 791.
fn ip(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let len = u16::try_from(20 + payload.len()).unwrap().to_be_bytes();
    let mut header =
        [&[0x45, 0][..], &len, &[0, 0, 0x40, 0, 64, protocol, 0, 0], &GUEST_IP, &HOST_IP].concat();
    let checksum = checksum(&header);
    header[10..12].copy_from_slice(&checksum);
    [header, payload.to_vec()].concat()
}

/// RFC 768, with the checksum of the pseudo header alone: the rest is left to the host.
fn unfinished_udp(port: u16, payload: &[u8]) -> Vec<u8> {
    let len = 8 + payload.len();
    let partial = !u16::from_be_bytes(checksum(&pseudo_header(UDP, len)));
    let words = [999, port, u16::try_from(len).unwrap(), partial];
    let header: Vec<u8> = words.into_iter().flat_map(u16::to_be_bytes).collect();
    [header, payload.to_vec()].concat()
}

fn is_udp(frame: &[u8]) -> bool {
    frame[12..14] == IPV4 && frame[23] == UDP
}

#[test]
fn descriptor_that_is_no_such_tap_is_refused() {
    let null = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
    let error = Device::new(&config(), null).unwrap_err();
    assert!(matches!(error, NetError::Tap(TapError::NotTap(_))), "{error:?}");
    with_tap(|_| {
        let plain = create("t1", !libc::IFF_VNET_HDR).unwrap();
        let error = Device::new(&config(), plain).unwrap_err();
        assert!(matches!(error, NetError::Tap(TapError::Flags { .. })), "{error:?}");
    });
}

#[test]
fn configuration_is_strict() {
    let text = r#"{"tap": 7, "mac": "02:00:00:00:00:01"}"#;
    let parsed: Config = serde_json::from_str(text).unwrap();
    assert_eq!(parsed, Config { tap: 7, mtu: None, ..config() });
    for wrong in [r#"{"tap": 7}"#, r#"{"tap": 7, "mac": "02:00:00:00:00:01", "queues": 2}"#] {
        serde_json::from_str::<Config>(wrong).unwrap_err();
    }
    let null = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
    let error = Device::new(&Config { mtu: Some(67), ..config() }, null).unwrap_err();
    assert!(matches!(error, NetError::Mtu { mtu: 67 }), "{error:?}");
}

#[test]
fn driver_finds_address_link_and_mtu() {
    with_tap(|tap| {
        let copy = tap.try_clone().unwrap();
        let driver = Driver::new(Box::new(Device::new(&config(), tap).unwrap()));
        assert_eq!(driver.config::<12>(0), [2, 0, 0, 0, 0, 1, 1, 0, 1, 0, 0xdc, 5]);
        assert_eq!(driver.config::<2>(11), [5, 0]);
        assert_eq!(driver.config::<4>(12), [0; 4]);
        assert_ne!(driver.offered() & feature::MTU, 0);
        let silent = Device::new(&Config { mtu: None, ..config() }, copy).unwrap();
        assert_eq!(virtio::Device::features(&silent) & feature::MTU, 0);
    });
}

#[test]
fn segments_without_checksums_and_a_missing_queue_are_refused() {
    with_tap(|tap| {
        let mut driver = Driver::new(Box::new(Device::new(&config(), tap).unwrap()));
        for features in [feature::GUEST_TSO4, feature::HOST_TSO6] {
            assert!(driver.negotiate(features));
            for index in 0..2 {
                let queue = crate::virtio::testing::DriverQueue::new(&driver.memory, index, 16);
                driver.set_up_queue(index, &queue.config());
            }
            assert!(!driver.driver_ok());
        }
        assert!(driver.negotiate(0));
        assert!(!driver.driver_ok());
        driver.start(0, 16);
    });
}

#[test]
fn echo_request_is_answered() {
    for features in [0, feature::MRG_RXBUF, feature::MRG_RXBUF | EVENT_IDX | INDIRECT_DESC] {
        with_tap(move |tap| {
            let mut guest = Guest::new(&config(), tap, features);
            let mut echo = [&[8, 0, 0, 0, 0, 7, 0, 1][..], b"payload of an echo"].concat();
            let checksum = checksum(&echo);
            echo[2..4].copy_from_slice(&checksum);
            let frame = guest.frame(IPV4, &ip(ICMP, &echo));
            guest.send(Header::default(), &frame);
            let (_, answer) = guest.receive(|frame| frame[12..14] == IPV4 && frame[23] == ICMP);
            assert_eq!(answer[L4], 0);
            assert_eq!(answer[L4 + 8..], echo[8..]);
            assert!(guest.driver.take_interrupt());
            assert_eq!(guest.driver.counter("tx_packets"), 2);
            assert_eq!(guest.driver.counter("tx_dropped_refused"), 0);
        });
    }
}

#[test]
fn checksum_left_to_the_host_is_put_in() {
    with_tap(|tap| {
        let socket = UdpSocket::bind("10.0.0.1:7000").unwrap();
        let mut guest = Guest::new(&config(), tap, feature::CSUM);
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let frame = guest.frame(IPV4, &ip(UDP, &unfinished_udp(7000, b"hello")));
        let header = Header {
            flags: F_NEEDS_CSUM,
            csum_start: u16::try_from(L4).unwrap(),
            csum_offset: 6,
            ..Header::default()
        };
        // Without the flag the checksum is wrong, and the host drops it.
        guest.send(Header::default(), &frame);
        guest.send(header, &[&frame[..L4 + 8], b"world"].concat());
        let mut bytes = [0; 16];
        let (len, from) = socket.recv_from(&mut bytes).unwrap();
        assert_eq!((&bytes[..len], from.port()), (&b"world"[..], 999));
    });
}

#[test]
fn checksum_is_left_to_a_guest_that_takes_it_and_to_no_other() {
    for features in [feature::GUEST_CSUM, 0] {
        with_tap(move |tap| {
            let socket = UdpSocket::bind("10.0.0.1:7000").unwrap();
            let mut guest = Guest::new(&config(), tap, features);
            socket.send_to(b"hello", "10.0.0.2:9").unwrap();
            let (header, frame) = guest.receive(is_udp);
            assert_eq!(frame[L4 + 8..], *b"hello");
            let mut whole = pseudo_header(UDP, 13);
            whole.extend(&frame[L4..]);
            if features == 0 {
                assert_eq!(header, Header::default());
                assert_eq!(sum(&whole), 0xffff);
            } else {
                assert_eq!((header.flags, header.csum_offset), (F_NEEDS_CSUM, 6));
                assert_ne!(sum(&whole), 0xffff);
            }
        });
    }
}

#[test]
fn segments_left_to_the_host_are_taken() {
    const PAYLOAD: u16 = 20_000;
    with_tap(|tap| {
        let mut guest = Guest::new(&config(), tap, feature::CSUM | feature::HOST_TSO4);
        // A segment of no connection, to a port where nobody listens. RFC 9293 §3.1.
        let ports = [[0, 99], 7000u16.to_be_bytes()].concat();
        let mut tcp =
            [&ports[..], &1000u32.to_be_bytes(), &[0; 4], &[0x50, 8, 0xff, 0xff, 0, 0, 0, 0]]
                .concat();
        tcp.resize(20 + usize::from(PAYLOAD), 7);
        let partial = !u16::from_be_bytes(checksum(&pseudo_header(TCP, tcp.len())));
        tcp[16..18].copy_from_slice(&partial.to_be_bytes());
        let header = Header {
            flags: F_NEEDS_CSUM,
            gso_type: GSO_TCPV4,
            hdr_len: 54,
            gso_size: 1448,
            csum_start: 34,
            csum_offset: 16,
        };
        let frame = guest.frame(IPV4, &ip(TCP, &tcp));
        guest.send(header, &frame);
        let (_, answer) = guest.receive(|frame| frame[12..14] == IPV4 && frame[23] == TCP);
        // RST and ACK of all that was sent.
        assert_eq!(answer[L4 + 13], 0x14);
        let acknowledged = 1000 + u32::from(PAYLOAD);
        assert_eq!(answer[L4 + 8..L4 + 12], acknowledged.to_be_bytes());
    });
}

#[test]
fn segments_for_the_guest_come_in_merged_buffers() {
    use std::io::{Read, Write};
    let features = feature::GUEST_CSUM | feature::GUEST_TSO4 | feature::MRG_RXBUF;
    with_tap(move |tap| {
        let mut guest = Guest::new(&config(), tap, features);
        // The guest opens a connection, by hand, and the host sends more than a segment.
        let listener = std::net::TcpListener::bind("10.0.0.1:7000").unwrap();
        let host = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(&[7; 9000]).unwrap();
            let _ = stream.read(&mut [0]);
        });
        let segment = |flags: u8, ack: [u8; 4], seq: u32, options: &[u8]| {
            let offset = u8::try_from((5 + options.len() / 4) << 4).unwrap();
            let mut tcp = [
                &[0, 99][..],
                &7000u16.to_be_bytes(),
                &seq.to_be_bytes(),
                &ack,
                &[offset, flags, 0xff, 0xff, 0, 0, 0, 0],
                options,
            ]
            .concat();
            let checksum = checksum(&[pseudo_header(TCP, tcp.len()), tcp.clone()].concat());
            tcp[16..18].copy_from_slice(&checksum);
            ip(TCP, &tcp)
        };
        let is_tcp = |frame: &[u8]| frame[12..14] == IPV4 && frame[23] == TCP;
        // SYN with a maximum segment size of 1448.
        let frame = guest.frame(IPV4, &segment(2, [0; 4], 1000, &[2, 4, 5, 0xa8]));
        guest.send(Header::default(), &frame);
        let (_, answer) = guest.receive(is_tcp);
        let seq = u32::from_be_bytes(answer[L4 + 4..L4 + 8].try_into().unwrap());
        let frame = guest.frame(IPV4, &segment(0x10, (seq + 1).to_be_bytes(), 1001, &[]));
        guest.send(Header::default(), &frame);
        loop {
            let used = guest.driver.queue(RX_QUEUE).take_used();
            let lengths: Vec<u32> = used.iter().map(|(_, len)| *len).collect();
            if let Some(at) = lengths.iter().position(|len| *len == 4096) {
                let first = guest.driver.queue(RX_QUEUE).read(guest.buffers[at]);
                let header = Header::from_bytes(*first.first_chunk().unwrap());
                assert_eq!((header.gso_type, header.gso_size), (GSO_TCPV4, 1448));
                let num_buffers = usize::from(u16::from_le_bytes([first[10], first[11]]));
                let total: u32 = lengths[at..at + num_buffers].iter().sum();
                let ip_len = u32::from(u16::from_be_bytes([first[28], first[29]]));
                assert_eq!(total, 12 + 14 + ip_len);
                break;
            }
            guest.buffers.drain(..used.len());
            assert!(guest.driver.wait(), "no segments arrived");
        }
        let frame = guest.frame(IPV4, &segment(4, [0; 4], 1001, &[]));
        guest.send(Header::default(), &frame);
        host.join().unwrap();
    });
}

#[test]
fn foreign_frames_do_not_reach_the_host() {
    with_tap(|tap| {
        let mut guest = Guest::new(&config(), tap, 0);
        let mut frame = guest.frame(ARP, &[0; 46]);
        frame[11] = 9;
        guest.send(Header::default(), &frame);
        assert_eq!(guest.driver.counter("tx_dropped_spoofed"), 1);
        assert_eq!(guest.driver.counter("tx_packets"), 1);
    });
}

#[test]
fn packets_that_waited_in_the_tap_arrive_when_buffers_do() {
    with_tap(|tap| {
        let socket = UdpSocket::bind("10.0.0.1:7000").unwrap();
        let mut driver = Driver::new(Box::new(Device::new(&config(), tap).unwrap()));
        // Some before there is a driver, some before it has buffers.
        for number in 0..100u8 {
            if number == 50 {
                driver.run();
                driver.start(0, 1);
            }
            socket.send_to(&[number], "10.0.0.2:9").unwrap();
            driver.run();
        }
        let mut expected = 0;
        while expected < 100 {
            let buffer = driver.queue(RX_QUEUE).writable(2000);
            driver.queue(RX_QUEUE).add(&[buffer]);
            driver.kick(RX_QUEUE);
            driver.run();
            let used = driver.queue(RX_QUEUE).take_used();
            assert_eq!(used.len(), 1, "after {expected}");
            let frame = driver.queue(RX_QUEUE).read(buffer).split_off(HEADER_LEN);
            if is_udp(&frame) {
                assert_eq!(frame[L4 + 8], expected);
                expected += 1;
            }
        }
    });
}

#[test]
fn limits_hold_packets_back_until_their_time() {
    let limits = |operations| Limits {
        operations: Some(Limit { size: operations, one_time_burst: 0, refill_ms: 100 }),
        ..Limits::default()
    };
    with_tap(move |tap| {
        let socket = UdpSocket::bind("10.0.0.1:7000").unwrap();
        let limited = Config { rx_limits: limits(5), tx_limits: limits(5), ..config() };
        let mut guest = Guest::new(&limited, tap, 0);
        for number in 0..12 {
            socket.send_to(&[number], "10.0.0.2:9").unwrap();
            let frame = guest.frame(ARP, &[0; 46]);
            guest.send(Header::default(), &frame);
        }
        assert!(guest.driver.counter("tx_packets") < 13);
        for number in 0..12 {
            assert_eq!(guest.receive(is_udp).1[L4 + 8], number);
        }
        while guest.driver.counter("tx_packets") < 13 {
            assert!(guest.driver.wait());
        }
        // Without limits all of it passes at once, that which waits among it.
        for number in 0..12 {
            socket.send_to(&[number], "10.0.0.2:9").unwrap();
            let frame = guest.frame(ARP, &[0; 46]);
            guest.send(Header::default(), &frame);
        }
        let none = Limits::default();
        let mut device = guest.driver.transport.device();
        device.downcast_mut::<Device>().unwrap().set_limits(&none, &none).unwrap();
        drop(device);
        assert!(guest.driver.wait());
        assert_eq!(guest.driver.counter("tx_packets"), 25);
        for number in 0..12 {
            assert_eq!(guest.receive(is_udp).1[L4 + 8], number);
        }
        assert!(guest.driver.counter("rx_throttled") > 0);
        assert!(guest.driver.counter("tx_throttled") > 0);
    });
}

#[test]
fn reset_leaves_queues_alone_and_the_next_driver_works() {
    with_tap(|tap| {
        let socket = UdpSocket::bind("10.0.0.1:7000").unwrap();
        let mut guest = Guest::new(&config(), tap, feature::GUEST_CSUM);
        guest.driver.write(0x070, 0);
        socket.send_to(b"lost", "10.0.0.2:9").unwrap();
        guest.driver.run();
        let buffer = guest.driver.queue(TX_QUEUE).readable(&[0; 100]);
        guest.driver.queue(TX_QUEUE).add(&[buffer]);
        guest.driver.kick(TX_QUEUE);
        guest.driver.run();
        assert!(guest.driver.queue(RX_QUEUE).take_used().is_empty());
        assert_eq!(guest.driver.queue(TX_QUEUE).take_used().len(), 1, "the ARP request's");

        guest.driver.start(0, 16);
        guest.buffers.clear();
        guest.give(16);
        // What had waited for the driver before has a checksum that this one could not finish.
        guest.driver.run();
        assert_eq!(guest.driver.counter("rx_dropped_unfit"), 1);
        socket.send_to(b"found", "10.0.0.2:9").unwrap();
        assert_eq!(guest.receive(is_udp).1[L4 + 8..], *b"found");
    });
}

#[test]
fn ring_that_lies_asks_for_a_reset() {
    with_tap(|tap| {
        let mut guest = Guest::new(&config(), tap, 0);
        guest.driver.queue(TX_QUEUE).set_avail_idx(1000);
        guest.driver.kick(TX_QUEUE);
        guest.driver.run();
        assert_ne!(guest.driver.status() & 64, 0);
        assert!(guest.driver.take_config_interrupt());
        guest.driver.start(0, 16);
        guest.buffers.clear();
        guest.give(16);
        guest.ask_host();
    });
}

#[test]
fn tap_that_goes_away_is_survived() {
    with_tap(|tap| {
        let mut guest = Guest::new(&config(), tap, 0);
        assert!(Command::new("ip").args(["link", "del", "t0"]).status().unwrap().success());
        let frame = guest.frame(ARP, &[0; 46]);
        guest.send(Header::default(), &frame);
        guest.driver.run();
        assert_eq!(guest.driver.counter("tx_dropped_refused"), 1);
        assert_eq!(guest.driver.status() & 64, 0);
    });
}
