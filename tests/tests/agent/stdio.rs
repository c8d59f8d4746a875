//! Standard streams and terminals.

use husk_tests::agent_bed::{Bed, Container, Stdio};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{bed_or_skip, output};

/// Bytes that a shifted, doubled or dropped part would change.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| b'a' + u8::try_from((i / 7 + i / 4096) % 26).unwrap()).collect()
}

#[test]
fn output_and_error_stay_apart() {
    let bed = bed_or_skip!();
    let ended = bed.run(&Container::sh("echo out; echo err >&2; printf end")).unwrap();
    assert_eq!((ended.stdout.as_str(), ended.stderr.as_str()), ("out\nend", "err\n"));
}

#[test]
fn everything_comes_through_and_the_end_of_input_too() {
    let bed = bed_or_skip!();
    let sent = pattern(4 << 20);
    let ended = bed.run_with(&Container::new(&["cat"]), &sent).unwrap();
    assert_eq!(ended.code, 0);
    assert!(ended.stdout.as_bytes() == sent, "{} of {} bytes", ended.stdout.len(), sent.len());
}

#[test]
fn nothing_is_lost_at_a_sudden_exit() {
    let bed = bed_or_skip!();
    for _ in 0..5 {
        let said = output(bed, &Container::sh("head -c 60000 /dev/zero | tr '\\0' x; exit 0"));
        assert_eq!(said.len(), 60_000);
    }
}

#[test]
fn background_process_of_an_exec_does_not_hold_its_end_up() {
    let bed = bed_or_skip!();
    let container = Container::sh("sleep 100");
    bed.block_on(async {
        let stdio = bed.open_stdio(false).await.unwrap();
        bed.create(&container, &stdio).await.unwrap();
        bed.start(&container.id).await.unwrap();
        let process = husk_tests::agent_bed::process(&["sh", "-c", "sleep 50 & echo said"]);
        let ended = bed.run_exec(&container.id, &process).await.unwrap();
        assert_eq!((ended.code, ended.stdout.as_str()), (0, "said\n"));
        bed.signal(&container.id, "", 9, false).await.unwrap();
        bed.wait(&container.id, "").await.unwrap();
        bed.delete(&container.id).await.unwrap();
    });
}

#[test]
fn output_without_a_reader_does_not_block_the_process() {
    let bed = bed_or_skip!();
    let container = Container::sh("head -c 3000000 /dev/zero; exit 3");
    bed.block_on(async {
        let mut stdio = bed.open_stdio(false).await.unwrap();
        stdio.stdout = None;
        bed.create(&container, &stdio).await.unwrap();
        bed.start(&container.id).await.unwrap();
        assert_eq!(bed.wait(&container.id, "").await.unwrap().0, 3);
        bed.delete(&container.id).await.unwrap();
    });
}

#[test]
fn input_that_is_never_read_blocks_nobody_else() {
    let bed = bed_or_skip!();
    let container = Container::sh("sleep 100");
    bed.block_on(async {
        let mut stdio = bed.open_stdio(false).await.unwrap();
        bed.create(&container, &stdio).await.unwrap();
        bed.start(&container.id).await.unwrap();
        let mut stdin = stdio.stdin.take().unwrap();
        let flood = tokio::spawn(async move {
            // Ends with the container.
            while stdin.write_all(&[0; 65536]).await.is_ok() {}
        });
        let process = husk_tests::agent_bed::process(&["echo", "alive"]);
        let ended = bed.run_exec(&container.id, &process).await.unwrap();
        assert_eq!(ended.stdout, "alive\n");
        bed.signal(&container.id, "", 9, false).await.unwrap();
        assert_eq!(bed.wait(&container.id, "").await.unwrap().0, 137);
        bed.delete(&container.id).await.unwrap();
        flood.await.unwrap();
    });
}

#[test]
fn input_closed_by_a_call_keeps_what_came_before() {
    let bed = bed_or_skip!();
    let container = Container::new(&["cat"]);
    bed.block_on(async {
        let mut stdio = bed.open_stdio(false).await.unwrap();
        bed.create(&container, &stdio).await.unwrap();
        bed.start(&container.id).await.unwrap();
        let mut stdin = stdio.stdin.take().unwrap();
        stdin.write_all(b"before").await.unwrap();
        let mut first = [0; 6];
        stdio.stdout.as_mut().unwrap().read_exact(&mut first).await.unwrap();
        bed.close_stdin(&container.id).await.unwrap();
        let ended = bed.finish(&container.id, "", stdio, b"").await.unwrap();
        assert_eq!((&first, ended.code), (b"before", 0));
        bed.delete(&container.id).await.unwrap();
        drop(stdin);
    });
}

#[test]
fn second_stream_of_a_token_is_closed_and_the_first_one_works() {
    let bed = bed_or_skip!();
    let container = Container::new(&["echo", "first"]);
    bed.block_on(async {
        let stdio = bed.open_stdio(false).await.unwrap();
        let token = stdio.stdout_token();
        let mut second = bed.open_as(token).await.unwrap();
        assert_eq!(second.read(&mut [0; 1]).await.unwrap_or(0), 0, "it must be closed");
        bed.create(&container, &stdio).await.unwrap();
        bed.start(&container.id).await.unwrap();
        let ended = bed.finish(&container.id, "", stdio, b"").await.unwrap();
        assert_eq!(ended.stdout, "first\n");
        bed.delete(&container.id).await.unwrap();
    });
}

async fn on_terminal(bed: &Bed, container: &Container) -> Stdio {
    let stdio = bed.open_stdio(true).await.unwrap();
    bed.create(container, &stdio).await.unwrap();
    bed.start(&container.id).await.unwrap();
    stdio
}

#[test]
fn terminal_is_the_processes_own() {
    let bed = bed_or_skip!();
    let container = Container::sh(
        "tty; test -t 0 && test -t 1 && test -t 2 && echo all; stty size; \
         stat -c %F /dev/console; echo hi > /dev/tty; grep -c ' /dev/console ' /proc/mounts",
    )
    .terminal()
    .with("/process/consoleSize", json!({"height": 33, "width": 99}));
    let ended = bed.run(&container).unwrap();
    let expected = "/dev/pts/0\nall\n33 99\ncharacter special file\nhi\n1\n";
    assert_eq!(ended.stdout.replace("\r\n", "\n"), expected);
}

#[test]
fn terminal_takes_input_and_a_new_size() {
    let bed = bed_or_skip!();
    let container = Container::sh("read line; echo got $line; stty size").terminal();
    bed.block_on(async {
        let mut stdio = on_terminal(bed, &container).await;
        bed.resize(&container.id, 40, 120).await.unwrap();
        stdio.stdout.as_mut().unwrap().write_all(b"word\n").await.unwrap();
        let ended = bed.finish(&container.id, "", stdio, b"").await.unwrap();
        assert_eq!(ended.stdout.replace("\r\n", "\n"), "word\ngot word\n40 120\n");
        bed.delete(&container.id).await.unwrap();
    });
}

#[test]
fn interrupt_on_the_terminal_reaches_the_process() {
    let bed = bed_or_skip!();
    let container =
        Container::sh("trap 'echo caught; exit 5' INT; echo ready; sleep 100 & wait").terminal();
    bed.block_on(async {
        let mut stdio = on_terminal(bed, &container).await;
        let stream = stdio.stdout.as_mut().unwrap();
        let mut ready = [0; 7];
        stream.read_exact(&mut ready).await.unwrap();
        assert_eq!(&ready, b"ready\r\n");
        stream.write_all(&[3]).await.unwrap();
        let ended = bed.finish(&container.id, "", stdio, b"").await.unwrap();
        assert_eq!(ended.code, 5);
        assert!(ended.stdout.contains("caught"), "{ended:?}");
        bed.delete(&container.id).await.unwrap();
    });
}

#[test]
fn exec_gets_a_terminal_too() {
    let bed = bed_or_skip!();
    let container = Container::sh("sleep 100");
    bed.block_on(async {
        let stdio = bed.open_stdio(false).await.unwrap();
        bed.create(&container, &stdio).await.unwrap();
        bed.start(&container.id).await.unwrap();
        let mut process = husk_tests::agent_bed::process(&["sh", "-c", "tty; stty size"]);
        process["terminal"] = json!(true);
        process["consoleSize"] = json!({"height": 10, "width": 20});
        let ended = bed.run_exec(&container.id, &process).await.unwrap();
        assert_eq!(ended.stdout, "/dev/pts/0\r\n10 20\r\n");
        bed.signal(&container.id, "", 9, true).await.unwrap();
        bed.wait(&container.id, "").await.unwrap();
        bed.delete(&container.id).await.unwrap();
    });
}
