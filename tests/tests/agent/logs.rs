//! The guest's log, as lines of JSON.

use husk_tests::agent_bed::Container;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::{bed_or_skip, guest::special_or_skip};

#[test]
fn log_has_lines_of_the_kernel_and_of_the_agent() {
    let bed = bed_or_skip!();
    let lines = bed.block_on(bed.log_lines(7)).unwrap();
    for line in &lines {
        for field in ["time", "level", "target", "message"] {
            assert!(line[field].is_string(), "{field}: {line}");
        }
        assert!(line["time"].as_str().unwrap().ends_with('Z'), "{line}");
    }
    let is = |target: &'static str, words: &'static str| {
        move |line: &&serde_json::Value| {
            line["target"] == target && line["message"].as_str().unwrap().contains(words)
        }
    };
    assert!(lines.iter().any(|line| is("kernel", "Linux version")(&line)));
    assert!(lines.iter().any(|line| is("agent", "the guest is up")(&line)));
}

#[test]
fn level_leaves_out_what_is_more_verbose() {
    let bed = bed_or_skip!();
    let lines = bed.block_on(bed.log_lines(4)).unwrap();
    for line in lines {
        let level = line["level"].as_str().unwrap().to_owned();
        assert!(!["notice", "info", "debug"].contains(&level.as_str()), "{line}");
    }
    assert!(bed.block_on(bed.log_lines(8)).is_err());
}

#[test]
fn follower_sees_what_happens_after_it_came() {
    let bed = special_or_skip!();
    bed.block_on(async {
        let stream = bed.logs(7, false).await.unwrap();
        let container = Container::sh("echo 'secret argument'");
        let id = container.id.clone();
        let stdio = bed.open_stdio(false).await.unwrap();
        bed.create(&container, &stdio).await.unwrap();
        bed.start(&id).await.unwrap();
        bed.wait(&id, "").await.unwrap();
        bed.delete(&id).await.unwrap();
        let mut lines = BufReader::new(stream).lines();
        let mut messages = Vec::new();
        while messages.last().is_none_or(|message| message != "deleted") {
            let line = lines.next_line().await.unwrap().expect("the stream does not end");
            assert!(!line.contains("secret argument"), "{line}");
            let line: serde_json::Value = serde_json::from_str(&line).unwrap();
            if line["container"] == id.as_str() {
                assert_eq!(line["subsystem"], "containers");
                messages.push(line["message"].as_str().unwrap().to_owned());
            }
        }
        assert_eq!(messages, ["created", "started", "deleted"]);
    });
}

#[test]
fn follower_that_does_not_read_holds_nobody_up_and_is_told_what_it_lost() {
    let bed = special_or_skip!();
    bed.block_on(async {
        let stream = bed.logs(7, false).await.unwrap();
        // More than the stream's buffers and the ring have, 64 KiB.
        let script = "i=0; while [ $i -lt 4500 ]; do \
                      echo \"line $i of a writer that has much to say about nothing\" > /dev/kmsg; \
                      i=$((i+1)); done; echo on";
        let container = Container::sh(script)
            .mount(json!({
                "destination": "/dev/kmsg", "type": "bind", "source": "/dev/kmsg",
                "options": ["bind"],
            }))
            .with("/linux/resources", json!({"devices": [{"allow": true, "access": "w"}]}));
        let stdio = bed.open_stdio(false).await.unwrap();
        bed.create(&container, &stdio).await.unwrap();
        bed.start(&container.id).await.unwrap();
        let ended = bed.finish(&container.id, "", stdio, b"").await.unwrap();
        assert_eq!((ended.stdout.as_str(), ended.stderr.as_str()), ("on\n", ""));
        bed.delete(&container.id).await.unwrap();
        let mut lines = BufReader::new(stream).lines();
        let lost = loop {
            let line = lines.next_line().await.unwrap().expect("the stream does not end");
            let line: serde_json::Value = serde_json::from_str(&line).unwrap();
            if line["message"] == "lines were lost" {
                break line["lost"].as_u64().unwrap();
            }
        };
        assert!(lost > 0);
    });
}

#[test]
fn followers_have_a_limit_and_make_room_when_they_go() {
    let bed = bed_or_skip!();
    bed.block_on(async {
        let mut followers = Vec::new();
        let refused = loop {
            match bed.logs(3, false).await {
                Ok(stream) => followers.push(stream),
                Err(refused) => break refused,
            }
            assert!(followers.len() < 100, "no limit");
        };
        assert!(refused.message.contains("too many"), "{refused:?}");
        drop(followers);
        // Their ends travel as everything does.
        while bed.logs(3, true).await.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    });
}
