//! Hosts that misbehave. Where the agent is meant to go down, in a VM of the case's own.

use std::{io::Write, path::Path, time::Duration};

use husk_protocols::error::ErrorKind;
use husk_tests::agent_bed::{Bed, Container, Options, RawGuest, process};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{bed_or_skip, output, said};

/// ttrpc's: protocol.md, "Message types".
const REQUEST: u8 = 1;

fn raw() -> Option<RawGuest> {
    crate::bed()?;
    Some(RawGuest::boot(Path::new(env!("CARGO_TARGET_TMPDIR")), &Options::default()).unwrap())
}

/// A field of a protobuf message that holds bytes.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut field = vec![number << 3 | 2];
    let mut len = bytes.len();
    while len >= 0x80 {
        field.push(u8::try_from(len & 0x7f).unwrap() | 0x80);
        len >>= 7;
    }
    field.push(u8::try_from(len).unwrap());
    field.extend_from_slice(bytes);
    field
}

/// ttrpc's `Request`: service, method, payload.
fn call(service: &str, method: &str, payload: &[u8]) -> Vec<u8> {
    let service = format!("husk.agent.v1.{service}");
    [field(1, service.as_bytes()), field(2, method.as_bytes()), field(3, payload)].concat()
}

fn contains(bytes: &[u8], words: &str) -> bool {
    bytes.windows(words.len()).any(|window| window == words.as_bytes())
}

#[test]
fn request_of_64_mib_is_refused_and_the_next_one_served() {
    let Some(mut guest) = raw() else { return };
    guest.send(1, REQUEST, &vec![0; 64 << 20]).unwrap();
    let (stream, answer) = guest.receive().unwrap();
    assert_eq!(stream, 1);
    assert!(contains(&answer, "exceed"), "{answer:?}");
    guest.send(3, REQUEST, &call("Sandbox", "Info", b"")).unwrap();
    let (stream, answer) = guest.receive().unwrap();
    assert_eq!(stream, 3);
    assert!(contains(&answer, env!("CARGO_PKG_VERSION")), "{answer:?}");
    let console = guest.end().unwrap();
    assert!(!console.contains("panic"), "{console}");
}

#[test]
fn call_that_does_not_exist_is_refused_and_the_next_one_served() {
    let Some(mut guest) = raw() else { return };
    for (index, (service, method)) in
        [("Nothing", "Info"), ("Sandbox", "Nothing"), ("", "")].into_iter().enumerate()
    {
        let stream = 1 + 2 * u32::try_from(index).unwrap();
        guest.send(stream, REQUEST, &call(service, method, b"")).unwrap();
        assert_eq!(guest.receive().unwrap().0, stream);
    }
    // Payloads that are no messages.
    guest.send(11, REQUEST, &[0xff; 100]).unwrap();
    assert_eq!(guest.receive().unwrap().0, 11);
    guest.send(13, REQUEST, &call("Containers", "Create", &[0xff; 100])).unwrap();
    assert_eq!(guest.receive().unwrap().0, 13);
    guest.send(15, REQUEST, &call("Sandbox", "Info", b"")).unwrap();
    assert!(contains(&guest.receive().unwrap().1, env!("CARGO_PKG_VERSION")));
}

#[test]
fn garbage_on_the_connection_ends_with_the_machine_and_not_with_a_panic() {
    let Some(mut guest) = raw() else { return };
    let garbage: Vec<u8> = (0..100_000_u32)
        .map(|i| u8::try_from(i.wrapping_mul(2_654_435_761) >> 24).unwrap())
        .collect();
    // The guest may have closed before the end.
    let _ = guest.connection.write_all(&garbage);
    let console = guest.end().unwrap();
    assert!(!console.contains("panic") && !console.contains("Oops"), "{console}");
}

#[test]
fn host_that_vanishes_in_the_middle_of_every_call_ends_the_machine() {
    let Some(mut guest) = raw() else { return };
    let id = field(1, b"gone");
    let calls: [(&str, &str, Vec<u8>); 8] = [
        ("Sandbox", "Info", vec![]),
        // Waits for streams that never come.
        ("Guest", "Logs", vec![0x08, 0x77]),
        ("Files", "CopyOut", [id.clone(), field(2, b"/"), vec![0x18, 0x78]].concat()),
        ("Containers", "Create", id.clone()),
        ("Processes", "Wait", id.clone()),
        ("Processes", "Exec", id.clone()),
        ("Guest", "Metrics", vec![]),
        ("Containers", "List", vec![]),
    ];
    for (index, (service, method, payload)) in calls.iter().enumerate() {
        let stream = 1 + 2 * u32::try_from(index).unwrap();
        guest.send(stream, REQUEST, &call(service, method, payload)).unwrap();
    }
    // And in the middle of a frame.
    guest.connection.write_all(&[0, 0, 1]).unwrap();
    let console = guest.end().unwrap();
    assert!(!console.contains("panic"), "{console}");
}

#[test]
fn guest_without_a_host_writes_its_containers_back_and_ends() {
    if crate::bed().is_none() {
        return;
    }
    let bed = Bed::boot(Path::new(env!("CARGO_TARGET_TMPDIR"))).unwrap();
    bed.block_on(async {
        bed.launch(&Container::sh("trap '' TERM; sleep 1000")).await.unwrap();
    });
    let gone = bed.hang_up();
    assert!(gone.wait(Duration::from_secs(60)), "the VM ends");
}

#[test]
fn ids_that_would_be_paths_are_refused_by_every_call() {
    let bed = bed_or_skip!();
    bed.block_on(async {
        for id in ["../up", "a/b", "/", ".", "", "a\0b", &"x".repeat(129)] {
            let kinds = [
                bed.create_raw(id, b"{}").await.unwrap_err().kind,
                bed.start(id).await.unwrap_err().kind,
                bed.delete(id).await.unwrap_err().kind,
                bed.signal(id, "", 9, false).await.unwrap_err().kind,
                bed.signal("fine", "a/b", 9, false).await.unwrap_err().kind,
                bed.wait(id, "").await.unwrap_err().kind,
                bed.resize(id, 1, 1).await.unwrap_err().kind,
                bed.close_stdin(id).await.unwrap_err().kind,
                bed.stat(id, "/").await.unwrap_err().kind,
                bed.copy_out(id, "/").await.unwrap_err().kind,
                bed.copy_in(id, "/", b"", None).await.unwrap_err().kind,
                bed.exec(id, &process(&["true"]), &Default::default()).await.unwrap_err().kind,
            ];
            assert!(kinds.iter().all(|kind| *kind == ErrorKind::Invalid), "{id:?}: {kinds:?}");
        }
    });
}

#[test]
fn stream_that_is_opened_twice_stays_with_the_first() {
    let bed = bed_or_skip!();
    bed.block_on(async {
        let (token, mut first) = bed.open().await.unwrap();
        // What is asked after it is answered when the agent has it.
        bed.info().await.unwrap();
        let mut second = bed.open_as(token).await.unwrap();
        // The second is closed at once.
        assert_eq!(second.read(&mut [0; 8]).await.unwrap(), 0);
        let container = Container::sh("echo here");
        bed.create(&container, &Bed::output_of(token)).await.unwrap();
        bed.start(&container.id).await.unwrap();
        let mut text = String::new();
        first.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "here\n");
        bed.remove(&container.id).await.unwrap();
    });
}

#[test]
fn stream_that_was_used_serves_no_second_call() {
    let bed = bed_or_skip!();
    bed.block_on(async {
        let id = bed.launch(&Container::sh("sleep 1000")).await.unwrap();
        let (token, mut stream) = bed.open().await.unwrap();
        let request = Bed::out_request(&id, "/etc/passwd", token);
        let mut archive = Vec::new();
        let (answer, read) =
            tokio::join!(bed.copy_out_to(&request), stream.read_to_end(&mut archive));
        answer.unwrap();
        read.unwrap();
        let refused = bed.copy_out_to(&request).await.unwrap_err();
        assert!(refused.message.contains("was not opened"), "{refused:?}");
        let none = Bed::out_request(&id, "/etc/passwd", 0);
        assert!(bed.copy_out_to(&none).await.unwrap_err().message.contains("is missing"));
        bed.remove(&id).await.unwrap();
    });
}

#[test]
fn streams_that_say_nothing_or_go_at_once_are_let_go() {
    let bed = bed_or_skip!();
    bed.block_on(async {
        for len in [0, 3, 8] {
            let mut stream = bed.open_as(0).await.unwrap();
            // Zero is no token.
            let _ = stream.write_all(&vec![0; len]).await;
        }
    });
    assert_eq!(output(bed, &Container::sh("echo on")), "on\n");
}

#[test]
fn reader_of_the_log_that_stalls_delays_no_container() {
    let bed = bed_or_skip!();
    bed.block_on(async {
        let stalled = bed.logs(7, false).await.unwrap();
        let id = bed.launch(&Container::sh("sleep 1000")).await.unwrap();
        assert_eq!(said(bed, &id, "echo on").await, "on\n");
        bed.remove(&id).await.unwrap();
        drop(stalled);
    });
}
