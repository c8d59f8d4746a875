//! Many containers and execs, and what is left of them: nothing. Has a VM of its own: in the shared
//! one others run.

use std::{collections::HashMap, path::Path, time::Duration};

use husk_tests::agent_bed::{Bed, Container, process};
use serde_json::json;
use tokio::task::JoinSet;

use crate::output;

const CONTAINERS: usize = 500;
/// Made, run and deleted at a time.
const AT_A_TIME: usize = 8;
/// All at once, in one container.
const EXECS: usize = 100;
/// How far the agent's resident memory may be from what it was.
const MEMORY_SLACK_BYTES: u64 = 1 << 20;
/// Threads that had nothing to do end after 2 s, and streams whose other end is gone at some time.
const LOOKS: u32 = 20;
const LOOK_INTERVAL: Duration = Duration::from_secs(3);

/// Looks at the guest from outside of all containers, through binds of the guest's own files. A
/// process of the kernel's may end between its name and the look.
const SCRIPT: &str = "
cd /guest/proc
echo cgroups $(ls -d /guest/cgroup/husk/*/ | wc -l)
echo scratch $(ls /guest/scratch | wc -l)
echo mounts $(wc -l < 1/mounts)
echo processes $(for p in [0-9]*; do readlink $p/exe; done | wc -l)
echo namespaces $(ls -l [0-9]*/ns 2>/dev/null | cut -s -d'>' -f2 | sort -u | wc -l)
echo descriptors $(ls 1/fd | wc -l)
echo tasks $(ls 1/task | wc -l)
";

fn look(bed: &Bed) -> HashMap<String, u32> {
    let bind = |source: &str, destination: &str| json!({"destination": destination, "source": source, "options": ["rbind", "ro"]});
    let all: Vec<&str> = vec!["CAP_SYS_PTRACE", "CAP_DAC_OVERRIDE", "CAP_SYS_ADMIN"];
    let container = Container::sh(SCRIPT)
        .mount(bind("/sys/fs/cgroup", "/guest/cgroup"))
        .mount(bind("/run/husk/scratch", "/guest/scratch"))
        .mount(bind("/proc", "/guest/proc"))
        .with(
            "/process/capabilities",
            json!({"bounding": all, "permitted": all, "effective": all}),
        );
    let line = |line: &str| {
        let (name, count) = line.split_once(' ').unwrap();
        (name.to_owned(), count.parse().unwrap())
    };
    output(bed, &container).lines().map(line).collect()
}

/// Runs containers to their end, some of which fail half-way, and some of which have hooks that
/// leave something running.
fn churn(bed: &Bed, containers: usize) {
    let hook = json!([bed.guest_hook("cat; sleep 1000 &")]);
    let hooks = json!({
        "createRuntime": hook, "createContainer": hook, "poststart": hook, "poststop": hook,
    });
    std::thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                for i in 0..containers.div_ceil(AT_A_TIME) {
                    let command = if i % 5 == 0 { "nothing" } else { "true" };
                    let mut container = Container::new(&[command]);
                    match i % 16 {
                        0 | 8 => container = container.with("/hooks", hooks.clone()),
                        3 | 15 => container = container.user_namespace().namespace("time"),
                        _ => {}
                    }
                    let result = bed.run(&container);
                    assert_eq!(result.is_err(), command == "nothing", "{result:?}");
                }
            });
        }
    });
}

/// Many execs at once, each with its own words and its own end.
fn crowd(bed: &'static Bed, execs: usize) {
    let container = Container::new(&["sleep", "1000"]);
    bed.block_on(async {
        let stdio = bed.open_stdio(false).await.unwrap();
        bed.create(&container, &stdio).await.unwrap();
        bed.start(&container.id).await.unwrap();
        let mut all = JoinSet::new();
        for number in 0..execs {
            let id = container.id.clone();
            all.spawn(async move {
                let script = format!("echo {number}; exit {}", number % 7);
                let ended = bed.run_exec(&id, &process(&["sh", "-c", &script])).await.unwrap();
                assert_eq!(ended.code as usize, number % 7, "{ended:?}");
                assert_eq!(ended.stdout, format!("{number}\n"));
            });
        }
        while let Some(exec) = all.join_next().await {
            exec.unwrap();
        }
        bed.signal(&container.id, "", 9, true).await.unwrap();
        bed.wait(&container.id, "").await.unwrap();
        bed.delete(&container.id).await.unwrap();
    });
}

#[test]
fn five_hundred_containers_and_a_hundred_execs_at_once_leave_nothing() {
    if crate::bed().is_none() {
        return;
    }
    let bed: &'static Bed =
        Box::leak(Box::new(Bed::boot(Path::new(env!("CARGO_TARGET_TMPDIR"))).unwrap()));
    let resident = || bed.block_on(bed.info()).unwrap().agent_resident_bytes;
    let booted = resident();
    // A first round brings in what stays: pages of the program, and room for as much at once. A
    // second one that needs more has lost something.
    churn(bed, CONTAINERS / 4);
    crowd(bed, EXECS);
    let before = (settled(bed, None), resident());
    churn(bed, CONTAINERS);
    crowd(bed, EXECS);
    let after = (settled(bed, Some(&before.0)), resident_at_rest(bed, before.1));
    eprintln!(
        "guest: {:?}; agent: {} KiB, {} after a warm-up, then {}",
        after.0,
        booted >> 10,
        before.1 >> 10,
        after.1 >> 10
    );
    assert!(is_no_more(&after.0, &before.0), "{:?} then {:?}", before.0, after.0);
    assert!(after.1 < before.1 + MEMORY_SLACK_BYTES, "{} then {} bytes", before.1, after.1);
    assert!(bed.block_on(bed.list()).unwrap().is_empty());
}

/// The agent's resident memory once it is back, or in the end: what watches over the deadline of
/// each stream stays for that long.
fn resident_at_rest(bed: &Bed, before: u64) -> u64 {
    let resident = || bed.block_on(bed.info()).unwrap().agent_resident_bytes;
    let mut last = resident();
    for _ in 0..LOOKS {
        if last < before + MEMORY_SLACK_BYTES / 2 {
            break;
        }
        std::thread::sleep(LOOK_INTERVAL);
        last = resident();
    }
    last
}

/// Less is fine: the look that it is held against may have found something on its way out.
fn is_no_more(now: &HashMap<String, u32>, before: &HashMap<String, u32>) -> bool {
    now.len() == before.len() && now.iter().all(|(what, count)| Some(count) <= before.get(what))
}

/// What the guest looks like once it is as wanted, or as it was at the look before, or in the end.
fn settled(bed: &Bed, wanted: Option<&HashMap<String, u32>>) -> HashMap<String, u32> {
    let mut last = look(bed);
    for _ in 0..LOOKS {
        if wanted.is_some_and(|wanted| is_no_more(&last, wanted)) {
            break;
        }
        std::thread::sleep(LOOK_INTERVAL);
        let next = look(bed);
        let same = next == last;
        last = next;
        if same && wanted.is_none() {
            break;
        }
    }
    last
}
