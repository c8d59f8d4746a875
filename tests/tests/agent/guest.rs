//! The guest as a whole: names, settings, processors, clock, and the kernel's command line. Most of
//! it in a VM of its own make, since what is changed is everybody's.

use std::{
    io::{Read, Write},
    path::Path,
    sync::OnceLock,
    time::{Duration, SystemTime},
};

use husk_protocols::{
    agent::{SetupRequest, Sysctl},
    error::ErrorKind,
};
use husk_tests::agent_bed::{Answer, Bed, Container, Options, RawGuest};
use serde_json::json;

use crate::{bed_or_skip, output, said};

fn folder() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR"))
}

/// With two processors, and wishes on its command line.
pub fn special() -> Option<&'static Bed> {
    static BED: OnceLock<Bed> = OnceLock::new();
    crate::bed()?;
    Some(BED.get_or_init(|| {
        let words = ["log=debug", "console=1", "hostname=wished", "sysctl.vm.swappiness=17"];
        let kernel_args = words.map(|word| format!("husk.{word}")).to_vec();
        let bed =
            Bed::boot_with(folder(), &Options { vcpus: 2, kernel_args, ..Options::default() })
                .unwrap();
        // It announces itself before it is all there.
        bed.block_on(bed.info()).unwrap();
        bed
    }))
}

macro_rules! special_or_skip {
    () => {
        match crate::guest::special() {
            Some(bed) => bed,
            None => return,
        }
    };
}
pub(crate) use special_or_skip;

fn invalid<T: std::fmt::Debug>(answer: Answer<T>, words: &str) {
    let refused = answer.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Invalid, "{refused:?}");
    assert!(refused.message.contains(words), "{refused:?}");
}

/// One that has a file of the host bound.
fn bound(name: &str) -> Container {
    Container::sh("sleep 1000").mount(json!({
        "destination": format!("/etc/{name}"), "type": "bind", "options": ["bind", "ro"],
        "source": format!("/run/husk/files/{name}"),
    }))
}

/// One without a uts namespace of its own.
fn without_names(script: &str) -> Container {
    let kinds = ["pid", "mount", "ipc", "network", "cgroup"].map(|kind| json!({"type": kind}));
    Container::sh(script).with("/hostname", json!(null)).with("/linux/namespaces", json!(kinds))
}

#[test]
fn wishes_on_the_command_line_are_in_force_for_the_first_container() {
    let bed = special_or_skip!();
    let said = output(bed, &Container::sh("cat /proc/sys/vm/swappiness"));
    assert_eq!(said, "17\n");
}

#[test]
fn unknown_wish_on_the_command_line_ends_the_machine_with_its_name() {
    if crate::bed().is_none() {
        return;
    }
    let kernel_args = vec!["husk.nonsense=1".to_owned()];
    let guest = RawGuest::boot(folder(), &Options { kernel_args, ..Options::default() }).unwrap();
    let console = guest.end().unwrap();
    assert!(console.contains("husk.nonsense: there is no such option"), "{console}");
}

#[test]
fn sysctl_on_the_command_line_that_is_not_there_ends_the_machine_with_its_name() {
    if crate::bed().is_none() {
        return;
    }
    let kernel_args = vec!["husk.sysctl.vm.nonsense=1".to_owned()];
    let guest = RawGuest::boot(folder(), &Options { kernel_args, ..Options::default() }).unwrap();
    let console = guest.end().unwrap();
    let words = "sysctl vm.nonsense: the guest kernel has none of this name";
    assert!(console.contains(words), "{console}");
}

#[test]
fn hostname_of_the_guest_is_that_of_containers_without_one() {
    let bed = special_or_skip!();
    bed.block_on(bed.set_hostname("renamed")).unwrap();
    assert_eq!(output(bed, &without_names("hostname")), "renamed\n");
    assert_eq!(output(bed, &Container::sh("hostname")), "inside\n");
}

#[test]
fn hostname_that_is_none_is_refused() {
    let bed = bed_or_skip!();
    for name in ["", "a b", "a\nb", "-a", "a..b", &"x".repeat(65)] {
        invalid(bed.block_on(bed.set_hostname(name)), "hostname");
    }
}

#[test]
fn dns_is_rewritten_under_a_running_container() {
    let bed = special_or_skip!();
    bed.block_on(async {
        bed.set_dns(&["192.0.2.1", "192.0.2.2"], &["a.example", "b.example"], &[]).await.unwrap();
        let id = bed.launch(&bound("resolv.conf")).await.unwrap();
        let look = "cat /etc/resolv.conf; stat -c %i /etc/resolv.conf";
        let before = said(bed, &id, look).await;
        let text = "nameserver 192.0.2.1\nnameserver 192.0.2.2\nsearch a.example b.example\n";
        assert!(before.starts_with(text), "{before}");
        bed.set_dns(&["2001:db8::1"], &[], &["ndots:3"]).await.unwrap();
        let after = said(bed, &id, look).await;
        assert!(after.starts_with("nameserver 2001:db8::1\noptions ndots:3\n"), "{after}");
        assert_eq!(before.lines().last(), after.lines().last(), "the same file");
        bed.remove(&id).await.unwrap();
    });
}

#[test]
fn dns_that_would_break_its_file_is_refused_and_changes_nothing() {
    let bed = special_or_skip!();
    bed.block_on(async {
        bed.write_file("resolv.conf.kept", "kept\n").await.unwrap();
        invalid(bed.set_dns(&["192.0.2.1\nnameserver 192.0.2.9"], &[], &[]).await, "servers");
        invalid(bed.set_dns(&["not.an.address"], &[], &[]).await, "servers");
        invalid(bed.set_dns(&[], &["a\nb"], &[]).await, "search");
        invalid(bed.set_dns(&[], &[], &["ndots:1 debug"]).await, "options");
    });
}

#[test]
fn hosts_are_rewritten_under_a_running_container() {
    let bed = special_or_skip!();
    bed.block_on(async {
        bed.set_hosts(&[("127.0.0.1", &["localhost"]), ("::1", &["localhost"])]).await.unwrap();
        let id = bed.launch(&bound("hosts")).await.unwrap();
        assert_eq!(said(bed, &id, "cat /etc/hosts").await, "127.0.0.1 localhost\n::1 localhost\n");
        bed.set_hosts(&[("192.0.2.7", &["web", "web.example"])]).await.unwrap();
        assert_eq!(said(bed, &id, "cat /etc/hosts").await, "192.0.2.7 web web.example\n");
        bed.remove(&id).await.unwrap();
    });
}

#[test]
fn hosts_entry_that_would_break_its_line_is_refused() {
    let bed = bed_or_skip!();
    bed.block_on(async {
        invalid(bed.set_hosts(&[("192.0.2.1", &["a\n6.6.6.6 b"])]).await, "entries.names");
        invalid(bed.set_hosts(&[("192.0.2.1", &[])]).await, "without a name");
        invalid(bed.set_hosts(&[("192.0.2.1 ", &["a"])]).await, "no IP address");
    });
}

#[test]
fn file_of_the_host_is_replaced_whole_also_by_a_shorter_one() {
    let bed = bed_or_skip!();
    bed.block_on(async {
        bed.write_file("replaced", &"long\n".repeat(100)).await.unwrap();
        let id = bed.launch(&bound("replaced")).await.unwrap();
        assert_eq!(said(bed, &id, "wc -l < /etc/replaced").await.trim(), "100");
        bed.write_file("replaced", "short\n").await.unwrap();
        assert_eq!(said(bed, &id, "cat /etc/replaced").await, "short\n");
        invalid(bed.write_file("../replaced", "").await, "single path component");
        bed.remove(&id).await.unwrap();
    });
}

async fn set_sysctl(bed: &Bed, name: &str, value: &str) -> Answer<()> {
    let (name, value) = (name.to_owned(), value.to_owned());
    let sysctls = vec![Sysctl { name, value, ..Default::default() }];
    bed.set_up(SetupRequest { sysctls, ..Default::default() }).await
}

#[test]
fn sysctl_of_the_guest_is_seen_by_containers() {
    let bed = bed_or_skip!();
    bed.block_on(set_sysctl(bed, "vm.max_map_count", "70001")).unwrap();
    bed.block_on(set_sysctl(bed, "fs/mqueue/../../vm/x", "1")).unwrap_err();
    assert_eq!(output(bed, &Container::sh("cat /proc/sys/vm/max_map_count")), "70001\n");
}

#[test]
fn sysctl_that_cannot_be_set_is_refused_by_name_and_reason() {
    let bed = bed_or_skip!();
    for (name, value, words) in [
        ("vm.nonsense", "1", "the guest kernel has none of this name"),
        ("kernel.osrelease", "1", "sysctl kernel.osrelease: cannot be set"),
        ("vm.max_map_count", "many", "the kernel refuses \"many\""),
        ("kernel.random", "1", "is a folder"),
        ("vm", "1", "is no name"),
        ("vm.swappiness", "1\n2", "not one line"),
    ] {
        invalid(bed.block_on(set_sysctl(bed, name, value)), words);
    }
}

#[test]
fn processors_go_and_come_back() {
    let bed = special_or_skip!();
    let count = || output(bed, &Container::new(&["nproc"]));
    assert_eq!(bed.block_on(bed.set_online_cpus(1)).unwrap(), (1, 2));
    assert_eq!(count(), "1\n");
    assert_eq!(bed.block_on(bed.set_online_cpus(2)).unwrap(), (2, 2));
    assert_eq!(count(), "2\n");
    for number in [0, 3, u32::MAX] {
        invalid(bed.block_on(bed.set_online_cpus(number)), "of 2");
    }
}

#[test]
fn clock_that_is_off_is_set_and_the_difference_told() {
    let bed = special_or_skip!();
    let now = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let set =
        |at: Duration| bed.block_on(bed.set_clock(u64::try_from(at.as_nanos()).unwrap())).unwrap();
    let day = Duration::from_secs(86_400);
    set(now());
    let (ahead, stepped) = set(now() + day);
    assert!(stepped);
    let hours = 3_600_000_000_000;
    assert!((-25 * hours..-23 * hours).contains(&ahead), "{ahead}");
    let said: u64 = output(bed, &Container::sh("date +%s")).trim().parse().unwrap();
    assert!(said >= (now() + day).as_secs() - 300, "{said}");
    let (ahead, stepped) = set(now());
    assert!(stepped && ahead > 23 * hours, "{ahead}");
    invalid(bed.block_on(bed.set_clock(0)), "wall_clock_ns");
}

#[test]
fn seed_is_taken_and_the_generator_runs_on() {
    let bed = bed_or_skip!();
    bed.block_on(bed.reseed(&[7; 32])).unwrap();
    let said = output(
        bed,
        &Container::sh("head -c 32 /dev/urandom | md5sum; head -c 32 /dev/urandom | md5sum"),
    );
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), 2);
    assert_ne!(lines[0], lines[1]);
    for seed in [&[][..], &[1; 15], &[1; 513]] {
        invalid(bed.block_on(bed.reseed(seed)), "seed: has");
    }
}

#[test]
fn guest_says_what_it_is() {
    let bed = special_or_skip!();
    let info = bed.block_on(bed.info()).unwrap();
    let said = output(bed, &Container::sh("cat /proc/sys/kernel/osrelease"));
    assert_eq!(info.kernel_release, said.trim());
    assert_eq!(info.present_cpus, 2);
    assert!(info.console && info.uptime_ms > 0);
    assert!(info.cgroup_controllers.contains(&"memory".to_owned()), "{info:?}");
}

/// Reads until a text has come, or the end.
fn read_until(console: &mut std::os::unix::net::UnixStream, end: &str) -> String {
    console.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut text = Vec::new();
    let mut byte = [0];
    while !String::from_utf8_lossy(&text).ends_with(end) && console.read(&mut byte).unwrap() > 0 {
        text.push(byte[0]);
    }
    String::from_utf8_lossy(&text).into_owned()
}

const PROMPT: &str = "husk> ";

#[test]
fn debug_console_shows_the_guest() {
    let bed = special_or_skip!();
    let mut console = bed.console().unwrap();
    read_until(&mut console, PROMPT);
    let mut ask = |line: &str| {
        writeln!(console, "{line}").unwrap();
        read_until(&mut console, PROMPT)
    };
    assert!(ask("help").contains("processes of the guest"));
    assert!(ask("ps").contains("\n1 ") || ask("ps").starts_with("1 "));
    assert!(ask("mounts").contains("/sys/fs/cgroup cgroup2"));
    assert!(ask("cgroups").contains("/husk"));
    assert!(ask("cat /proc/version").contains("Linux version"));
    assert!(ask("cat /dev/zero").contains("is no regular file"));
    assert!(ask("ls /run/husk").contains("files\n"));
    assert!(ask("nonsense").contains("no such command"));
}

#[test]
fn debug_console_becomes_a_shell_in_a_container() {
    let bed = special_or_skip!();
    let id = bed.block_on(bed.launch(&Container::sh("sleep 1000"))).unwrap();
    let mut console = bed.console().unwrap();
    read_until(&mut console, PROMPT);
    writeln!(console, "sh {id}").unwrap();
    writeln!(console, "echo in-$((40+2)); hostname; exit").unwrap();
    let text = read_until(&mut console, "inside\r\n");
    assert!(text.contains("in-42"), "{text}");
    bed.block_on(bed.remove(&id)).unwrap();
}

#[test]
fn debug_console_is_off_unless_it_is_asked_for() {
    let bed = bed_or_skip!();
    let mut console = bed.console().unwrap();
    assert_eq!(read_until(&mut console, PROMPT), "");
    assert!(!bed.block_on(bed.info()).unwrap().console);
}
