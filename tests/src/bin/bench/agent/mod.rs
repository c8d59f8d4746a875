//! The guest agent against runc and crun, all three in one VM.
//!
//! The rivals are the distribution's programs. They run inside a container of ours that has every
//! capability, the guest's whole cgroup tree and a /proc without masks, on the same files as our
//! own container has, with the same config.json: namespaces, mounts, capabilities, masked and
//! read-only paths, device rules. Nobody filters system calls in what is compared, since a spec
//! without `linux.seccomp` says nothing to a rival and has the default profile with us; what ours
//! takes with that is told beside it. What is compared:
//!
//! - run: create, start, wait and delete of `/bin/true`. Ours is timed by the host, around the four
//!   calls; a rival's `run` by a shell in the guest, around a loop of several, so that what our
//!   exec of that shell takes does not count.
//! - exec of `/bin/true` in a container that sleeps: ours around `Exec` and `Wait`, a rival's
//!   `exec` in a loop again.
//!
//! Nobody's process has streams but /dev/null; what ours takes with all three is told beside it.
//! The three take turns, for machines are shared and noisy; a figure is the median of the rounds,
//! and a round's is the mean of its loop.

mod rival;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use husk_tests::agent_bed::{Answer, Bed, Container, Options, Refusal, Stdio, process};
use serde_json::json;

use self::rival::{Arena, RIVALS};
use super::report::{Report, median, ratio};

/// Of each thing in a round.
const LOOP: u32 = 4;
/// Containers of the loop after which the agent's memory is looked at.
const STRESS: usize = 200;
const MIB: f64 = 1024.0 * 1024.0;
const TRUE: &str = "/bin/true";

/// Measures everything of the agent's.
pub fn against_runtimes(rounds: usize, report: &mut Report) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let image = rival::image(folder.path())?;
    let bed = Bed::boot_with(
        folder.path(),
        &Options { images: vec![(rival::IMAGE, image)], ..Options::default() },
    )?;
    report.add("agent, resident after its start", resident(&bed)?, "MiB", Some(6.0));
    let arena = Arena::open(&bed)?;
    let mut times = Times::new(&bed)?;
    for _ in 0..rounds {
        times.round(&bed, &arena)?;
    }
    times.tell(report);
    for _ in 0..STRESS {
        bed.run(&Container::new(&[TRUE])).map_err(refused)?;
    }
    report.add(&format!("agent, resident after {STRESS} more"), resident(&bed)?, "MiB", Some(6.0));
    Ok(())
}

fn refused(refusal: Refusal) -> anyhow::Error {
    anyhow!("the agent refused: {}", refusal.message)
}

fn resident(bed: &Bed) -> Result<f64> {
    let info = bed.block_on(bed.info()).map_err(refused)?;
    Ok(info.agent_resident_bytes as f64 / MIB)
}

/// What system calls of our containers go through.
#[derive(Clone, Copy)]
enum Calls {
    /// Nothing, as with the rivals.
    Open,
    /// The profile of a container whose spec says nothing.
    Filtered,
}

impl Calls {
    fn container(self, args: &[&str]) -> Container {
        let container = Container::new(args);
        match self {
            Self::Open => unconfined(container),
            Self::Filtered => container,
        }
    }
}

/// Without a filter of system calls.
fn unconfined(container: Container) -> Container {
    container.with("/linux/seccomp", json!({"defaultAction": "SCMP_ACT_ALLOW"}))
}

/// A container that execs go into.
struct Sleeper(Container);

impl Sleeper {
    fn start(bed: &Bed, calls: Calls) -> Result<Self> {
        let container = calls.container(&["sleep", "100000"]);
        bed.block_on(async {
            bed.create(&container, &Stdio::default()).await?;
            bed.start(&container.id).await
        })
        .map_err(refused)?;
        Ok(Self(container))
    }
}

/// Of our containers with or without a filter; one figure of each round, but for calls.
struct Own {
    calls: Calls,
    sleeper: Sleeper,
    create: Vec<Duration>,
    start: Vec<Duration>,
    wait: Vec<Duration>,
    delete: Vec<Duration>,
    run: Vec<Duration>,
    exec: Vec<Duration>,
    exec_with_streams: Vec<Duration>,
}

impl Own {
    fn new(bed: &Bed, calls: Calls) -> Result<Self> {
        Ok(Self {
            calls,
            sleeper: Sleeper::start(bed, calls)?,
            create: Vec::new(),
            start: Vec::new(),
            wait: Vec::new(),
            delete: Vec::new(),
            run: Vec::new(),
            exec: Vec::new(),
            exec_with_streams: Vec::new(),
        })
    }

    fn round(&mut self, bed: &Bed) -> Result<()> {
        let began = Instant::now();
        for _ in 0..LOOP {
            bed.block_on(self.run(bed)).map_err(refused)?;
        }
        self.run.push(began.elapsed() / LOOP);
        let (id, command) = (&self.sleeper.0.id, process(&[TRUE]));
        let began = Instant::now();
        for _ in 0..LOOP {
            bed.block_on(async {
                let exec = bed.exec(id, &command, &Stdio::default()).await?;
                bed.wait(id, &exec).await
            })
            .map_err(refused)?;
        }
        self.exec.push(began.elapsed() / LOOP);
        let began = Instant::now();
        for _ in 0..LOOP {
            bed.block_on(bed.run_exec(id, &command)).map_err(refused)?;
        }
        self.exec_with_streams.push(began.elapsed() / LOOP);
        Ok(())
    }

    async fn run(&mut self, bed: &Bed) -> Answer<()> {
        let container = self.calls.container(&[TRUE]);
        let began = Instant::now();
        bed.create(&container, &Stdio::default()).await?;
        let created = Instant::now();
        bed.start(&container.id).await?;
        let started = Instant::now();
        bed.wait(&container.id, "").await?;
        let ended = Instant::now();
        bed.delete(&container.id).await?;
        self.create.push(created - began);
        self.start.push(started - created);
        self.wait.push(ended - started);
        self.delete.push(ended.elapsed());
        Ok(())
    }

    fn tell(&self, report: &mut Report) {
        let name = match self.calls {
            Calls::Open => "agent",
            Calls::Filtered => "agent, default seccomp",
        };
        report
            .time(&format!("{name}: create, start, wait, delete of /bin/true"), median(&self.run));
        for (name, times) in [
            ("create", &self.create),
            ("start", &self.start),
            ("wait", &self.wait),
            ("delete", &self.delete),
        ] {
            report.time(&format!("  of which {name}"), median(times));
        }
        report.time(&format!("{name}: exec of /bin/true"), median(&self.exec));
        let with_streams = median(&self.exec_with_streams);
        report.time(&format!("{name}: exec of /bin/true, three streams"), with_streams);
    }
}

/// All that are compared.
struct Times {
    open: Own,
    filtered: Own,
    /// In the order of the rivals: runs and execs.
    rivals: [(Vec<Duration>, Vec<Duration>); RIVALS.len()],
}

impl Times {
    fn new(bed: &Bed) -> Result<Self> {
        let (open, filtered) = (Own::new(bed, Calls::Open)?, Own::new(bed, Calls::Filtered)?);
        Ok(Self { open, filtered, rivals: Default::default() })
    }

    fn round(&mut self, bed: &Bed, arena: &Arena<'_>) -> Result<()> {
        self.open.round(bed)?;
        self.filtered.round(bed)?;
        for (rival, (run, exec)) in RIVALS.iter().zip(&mut self.rivals) {
            run.push(arena.run(rival, LOOP)?);
            exec.push(arena.exec(rival, LOOP)?);
        }
        Ok(())
    }

    fn tell(&self, report: &mut Report) {
        self.open.tell(report);
        self.filtered.tell(report);
        for (rival, (run, exec)) in RIVALS.iter().zip(&self.rivals) {
            let (name, run, exec) = (rival.name, median(run), median(exec));
            report.time(&format!("{name}: run of /bin/true"), run);
            report.time(&format!("{name}: exec of /bin/true"), exec);
            for (ours, who, limit) in [
                (&self.open, "agent", Some(rival.limit)),
                (&self.filtered, "agent, default seccomp,", None),
            ] {
                let (own_run, own_exec) = (median(&ours.run), median(&ours.exec));
                report.add(&format!("{who} run over {name} run"), ratio(own_run, run), "x", limit);
                report.add(
                    &format!("{who} exec over {name} exec"),
                    ratio(own_exec, exec),
                    "x",
                    limit,
                );
            }
        }
    }
}

/// Where the whole of a program lies on this machine.
fn find_program(name: &str) -> Result<std::path::PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    path.split(':')
        .map(|folder| Path::new(folder).join(name))
        .find(|file| file.is_file())
        .ok_or_else(|| anyhow!("no {name} (scripts/setup --bench)"))
}
