//! The guest agent against runc and crun, all three in one VM.
//!
//! The rivals are the distribution's programs. They run inside a container of ours that has every
//! capability, the guest's whole cgroup tree and a /proc without masks, on the same files as our own
//! container has, with the same config.json: namespaces, mounts, capabilities, masked and read-only
//! paths; nobody filters system calls. What is compared:
//!
//! - run: create, start, wait and delete of `/bin/true`. Ours is timed by the host, around the four
//!   calls; a rival's `run` by a shell in the guest, around a loop of several, so that what our exec
//!   of that shell takes does not count.
//! - exec of `/bin/true` in a container that sleeps: ours around `Exec` and `Wait`, a rival's `exec`
//!   in a loop again.
//!
//! Nobody's process has streams but /dev/null; what ours takes with all three is told beside it. The
//! three take turns, for machines are shared and noisy; a figure is the median of the rounds, and a
//! round's is the mean of its loop.

mod rival;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use husk_tests::agent_bed::{Answer, Bed, Container, Refusal, Stdio, process};

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
    let bed = Bed::boot_with_images(folder.path(), &[(rival::IMAGE, image)])?;
    report.add("agent, resident after its start", resident(&bed)?, "MiB", Some(6.0));
    let arena = Arena::open(&bed)?;
    let sleeper = Sleeper::start(&bed)?;
    let mut times = Times::default();
    for _ in 0..rounds {
        times.round(&bed, &sleeper, &arena)?;
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

/// A container that execs go into.
struct Sleeper(Container);

impl Sleeper {
    fn start(bed: &Bed) -> Result<Self> {
        let container = Container::new(&["sleep", "100000"]);
        bed.block_on(async {
            bed.create(&container, &Stdio::default()).await?;
            bed.start(&container.id).await
        })
        .map_err(refused)?;
        Ok(Self(container))
    }
}

/// What each call of ours took, and the whole.
#[derive(Default)]
struct Own {
    create: Vec<Duration>,
    start: Vec<Duration>,
    wait: Vec<Duration>,
    delete: Vec<Duration>,
}

impl Own {
    async fn run(&mut self, bed: &Bed) -> Answer<()> {
        let container = Container::new(&[TRUE]);
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
}

/// One figure of each round.
#[derive(Default)]
struct Times {
    own: Own,
    run: Vec<Duration>,
    exec: Vec<Duration>,
    exec_with_streams: Vec<Duration>,
    /// In the order of the rivals.
    rivals: [(Vec<Duration>, Vec<Duration>); RIVALS.len()],
}

impl Times {
    fn round(&mut self, bed: &Bed, sleeper: &Sleeper, arena: &Arena<'_>) -> Result<()> {
        let began = Instant::now();
        for _ in 0..LOOP {
            bed.block_on(self.own.run(bed)).map_err(refused)?;
        }
        self.run.push(began.elapsed() / LOOP);
        let command = process(&[TRUE]);
        let began = Instant::now();
        for _ in 0..LOOP {
            bed.block_on(async {
                let exec = bed.exec(&sleeper.0.id, &command, &Stdio::default()).await?;
                bed.wait(&sleeper.0.id, &exec).await
            })
            .map_err(refused)?;
        }
        self.exec.push(began.elapsed() / LOOP);
        let began = Instant::now();
        for _ in 0..LOOP {
            bed.block_on(bed.run_exec(&sleeper.0.id, &command)).map_err(refused)?;
        }
        self.exec_with_streams.push(began.elapsed() / LOOP);
        for (rival, (run, exec)) in RIVALS.iter().zip(&mut self.rivals) {
            run.push(arena.run(rival, LOOP)?);
            exec.push(arena.exec(rival, LOOP)?);
        }
        Ok(())
    }

    fn tell(&self, report: &mut Report) {
        let (run, exec) = (median(&self.run), median(&self.exec));
        report.time("agent: create, start, wait, delete of /bin/true", run);
        for (name, times) in [
            ("create", &self.own.create),
            ("start", &self.own.start),
            ("wait", &self.own.wait),
            ("delete", &self.own.delete),
        ] {
            report.time(&format!("  of which {name}"), median(times));
        }
        report.time("agent: exec of /bin/true", exec);
        report.time("agent: exec of /bin/true, three streams", median(&self.exec_with_streams));
        for (rival, (rival_run, rival_exec)) in RIVALS.iter().zip(&self.rivals) {
            let (rival_run, rival_exec) = (median(rival_run), median(rival_exec));
            let (name, limit) = (rival.name, Some(rival.limit));
            report.time(&format!("{name}: run of /bin/true"), rival_run);
            report.time(&format!("{name}: exec of /bin/true"), rival_exec);
            report.add(&format!("agent run over {name} run"), ratio(run, rival_run), "x", limit);
            report.add(
                &format!("agent exec over {name} exec"),
                ratio(exec, rival_exec),
                "x",
                limit,
            );
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
