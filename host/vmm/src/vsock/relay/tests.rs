//! Tests of the relay with a device of the tests, which may lie.

use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::sys::epoll::EpollCreateFlags;

use super::*;

const SOON: Duration = Duration::from_secs(60);

fn next_order(device: &Channel) -> (Order, Option<OwnedFd>) {
    for _ in 0..60_000 {
        match device.receive().unwrap() {
            Received::Message(order, stream) => return (order, stream),
            Received::Nothing => std::thread::sleep(Duration::from_millis(1)),
            Received::Stripped(_) => panic!("too many descriptors are open"),
            Received::End => panic!("the relay has ended"),
        }
    }
    panic!("no order")
}

/// Whether the relay closes its end.
fn ends(device: &Channel) -> bool {
    (0..60_000).any(|_| match device.receive::<Order>() {
        Ok(Received::End) => true,
        _ => {
            std::thread::sleep(Duration::from_millis(1));
            false
        }
    })
}

#[test]
fn orders_reach_the_device_with_their_streams() {
    let (ours, device) = Channel::pair().unwrap();
    let handle = serve(ours).unwrap();
    let _stream = handle.connect(9).unwrap();
    let (order, stream) = next_order(&device);
    assert_eq!((order, stream.is_some()), (Order::Connect { guest_port: 9 }, true));
}

#[test]
fn offer_for_a_port_where_nobody_listens_is_closed() {
    let (ours, device) = Channel::pair().unwrap();
    let _handle = serve(ours).unwrap();
    let (near, far) = UnixStream::pair().unwrap();
    device.send(&Report::Offer { host_port: 5 }, Some(far.as_fd())).unwrap();
    drop(far);
    near.set_read_timeout(Some(SOON)).unwrap();
    assert_eq!(std::io::Read::read(&mut &near, &mut [0]).unwrap(), 0);
}

#[test]
fn device_that_lies_is_let_go_of() {
    let file = std::fs::File::open("/dev/null").unwrap();
    for (report, descriptor) in [
        (Report::Offer { host_port: 5 }, None),
        (Report::Offer { host_port: 5 }, Some(file.as_fd())),
        (Report::Listening { host_port: 5, free: true }, Some(file.as_fd())),
    ] {
        let (ours, device) = Channel::pair().unwrap();
        let _handle = serve(ours).unwrap();
        device.send(&report, descriptor).unwrap();
        assert!(ends(&device), "{report:?}");
    }
    let (ours, device) = Channel::pair().unwrap();
    let _handle = serve(ours).unwrap();
    device.send(&"garbage", None).unwrap();
    assert!(ends(&device));
}

#[test]
fn answer_that_nobody_asked_for_gives_no_listener() {
    let (ours, device) = Channel::pair().unwrap();
    let handle = serve(ours).unwrap();
    device.send(&Report::Listening { host_port: 5, free: true }, None).unwrap();
    let listening = std::thread::spawn(move || handle.listen(5, 1));
    assert_eq!(next_order(&device).0, Order::Listen { host_port: 5, backlog: 1 });
    device.send(&Report::Listening { host_port: 5, free: false }, None).unwrap();
    assert_eq!(listening.join().unwrap().unwrap_err().kind(), io::ErrorKind::AddrInUse);
}

#[test]
fn orders_wait_for_a_device_that_is_slow_and_none_is_lost() {
    let (ours, device) = Channel::pair().unwrap();
    let handle = serve(ours).unwrap();
    // More than the socket holds.
    for port in 0..400 {
        drop(handle.connect(port).unwrap());
    }
    for port in 0..400 {
        let (order, stream) = next_order(&device);
        assert_eq!((order, stream.is_some()), (Order::Connect { guest_port: port }, true));
    }
}

#[test]
fn device_that_always_has_something_to_say_is_told_all_the_same() {
    let (channel, device) = Channel::pair().unwrap();
    let (handle, mailbox) = Mailbox::new().unwrap();
    let (sinks, asked) = (HashMap::new(), HashMap::new());
    let mut relay = Relay { channel, mailbox, sinks, asked, held: None };
    // One more than the relay hears at once.
    for _ in 0..=MAX_HEARD {
        assert!(device.send(&Report::Listening { host_port: 5, free: true }, None).unwrap());
    }
    let _stream = handle.connect(9).unwrap();
    assert!(relay.hear().unwrap());
    let left = relay.channel.receive::<Report>().unwrap();
    assert!(matches!(left, Received::Message(..)), "all was heard, and would be for ever");
    relay.tell().unwrap();
    assert_eq!(next_order(&device).0, Order::Connect { guest_port: 9 });
}

#[test]
fn answer_waits_for_a_process_that_is_slow_behind_connections_of_the_guest() {
    let (host, theirs) = Channel::pair().unwrap();
    let mut remote = Remote::new(theirs);
    let mut muxer = Muxer::new(super::super::testing::CONFIG);
    let (mut streams, epoll) = (Streams::default(), Epoll::new(EpollCreateFlags::empty()).unwrap());
    let sink = RemoteSink { host_port: 9, channel: remote.channel.clone() };
    // As many connections of the guest as the socket holds.
    while sink.offer(UnixStream::pair().unwrap().0) {}
    for host_port in [5, 6] {
        host.send(&Order::Listen { host_port, backlog: 1 }, None).unwrap();
    }
    for _ in 0..2 {
        assert!(remote.serve(&mut muxer, &mut streams, &epoll).unwrap());
    }
    let mut answers = Vec::new();
    while answers.len() < 2 {
        match host.receive::<Report>().unwrap() {
            Received::Message(Report::Listening { host_port, free }, None) => {
                answers.push((host_port, free));
            }
            Received::Message(Report::Offer { host_port: 9 }, Some(_)) => {}
            Received::Nothing => {
                assert!(remote.serve(&mut muxer, &mut streams, &epoll).unwrap());
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(answers, [(5, true), (6, true)]);
}
