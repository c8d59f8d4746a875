//! What is left of containers that are gone. Has a VM of its own: in the shared one others run.

use std::path::Path;

use husk_tests::agent_bed::{Bed, Container, process};
use serde_json::json;

use crate::output;

const CONTAINERS: usize = 100;
const EXECS: usize = 30;

/// Looks at the guest from outside of all containers, through binds of the guest's own files.
fn look(bed: &Bed) -> Vec<u32> {
    let bind = |source: &str, destination: &str| json!({"destination": destination, "source": source, "options": ["rbind", "ro"]});
    // Cgroups, folders in use, mounts, processes that are no kernel threads, and descriptors.
    let script = "ls -d /guest/cgroup/husk/*/ | wc -l; ls /guest/scratch | wc -l; \
                  wc -l < /guest/proc/1/mounts; \
                  for p in /guest/proc/[0-9]*; do readlink $p/exe; done | wc -l; \
                  ls /guest/proc/1/fd | wc -l";
    let all: Vec<&str> = vec!["CAP_SYS_PTRACE", "CAP_DAC_OVERRIDE", "CAP_SYS_ADMIN"];
    let container = Container::sh(script)
        .mount(bind("/sys/fs/cgroup", "/guest/cgroup"))
        .mount(bind("/run/husk/scratch", "/guest/scratch"))
        .mount(bind("/proc", "/guest/proc"))
        .with(
            "/process/capabilities",
            json!({"bounding": all, "permitted": all, "effective": all}),
        );
    output(bed, &container).lines().map(|line| line.trim().parse().unwrap()).collect()
}

fn churn(bed: &'static Bed) {
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for i in 0..CONTAINERS / 4 {
                    // Some fail half-way.
                    let command = if i % 5 == 0 { "nothing" } else { "true" };
                    let result = bed.run(&Container::new(&[command]));
                    assert_eq!(result.is_err(), command == "nothing");
                    let mapped = Container::new(&[command]).user_namespace().namespace("time");
                    if i % 4 == 0 {
                        assert_eq!(bed.run(&mapped).is_err(), command == "nothing");
                    }
                }
            });
        }
    });
    let container = Container::new(&["sleep", "1000"]);
    bed.block_on(async {
        let stdio = bed.open_stdio(false).await.unwrap();
        bed.create(&container, &stdio).await.unwrap();
        bed.start(&container.id).await.unwrap();
        for _ in 0..EXECS {
            assert_eq!(bed.run_exec(&container.id, &process(&["true"])).await.unwrap().code, 0);
        }
        bed.signal(&container.id, "", 9, true).await.unwrap();
        bed.wait(&container.id, "").await.unwrap();
        bed.delete(&container.id).await.unwrap();
    });
}

#[test]
fn a_hundred_containers_and_thirty_execs_leave_nothing() {
    if crate::bed().is_none() {
        return;
    }
    let bed: &'static Bed =
        Box::leak(Box::new(Bed::boot(Path::new(env!("CARGO_TARGET_TMPDIR"))).unwrap()));
    let resident = || bed.block_on(bed.info()).unwrap().agent_resident_bytes;
    // The first ones bring in what stays: pages of the program, threads of the runtime.
    bed.run(&Container::new(&["true"])).unwrap();
    let before = (look(bed), resident());
    churn(bed);
    let after = (look(bed), resident());
    assert_eq!(after.0, before.0, "cgroups, folders, mounts, processes, descriptors");
    assert!(after.1 < before.1 + (2 << 20), "{} then {} bytes", before.1, after.1);
    assert!(bed.block_on(bed.list()).unwrap().is_empty());
    eprintln!("guest: {:?}; agent: {} KiB, then {} KiB", after.0, before.1 >> 10, after.1 >> 10);
}
