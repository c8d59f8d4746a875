//! What husk costs, as ratios measured in one run: machines are shared and noisy, so what is
//! compared runs in turns, and medians are told. Prints a table and writes JSON; fails nothing,
//! for a limit that is missed is a fact and not an error.

mod agent;
mod block;
mod containers;
mod flatten;
mod machine;
mod report;
mod vmm;
mod vsock;

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use report::Report;

/// A part of the figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Section {
    /// Virtual machines, whole containers, images
    Host,
    /// The guest agent by itself
    Agent,
    /// Devices of the built-in VMM by themselves
    Devices,
    /// The built-in VMM: guests that have no kernel, and what a container takes on the host
    Vmm,
}

/// Measures husk as it was built.
#[derive(Debug, Parser)]
struct Flags {
    /// Folder of the test guests' programs: floor-init and vsock-init
    #[arg(long, value_name = "FOLDER")]
    inits: PathBuf,
    /// Where the figures go
    #[arg(long, value_name = "FILE")]
    json: PathBuf,
    /// Runs of each thing that is measured
    #[arg(long, default_value_t = 9)]
    runs: usize,
    /// One part of the figures alone
    #[arg(long, value_name = "PART")]
    only: Option<Section>,
}

fn main() -> Result<()> {
    let flags = Flags::parse();
    let wanted = |section| flags.only.is_none_or(|only| only == section);
    let mut report = Report::default();
    report.add("load of the machine, at the start", load(), "", None);
    if wanted(Section::Host) {
        host(&flags, &mut report)?;
    }
    if wanted(Section::Agent) {
        agent::against_runtimes(flags.runs, &mut report).context("the agent against runtimes")?;
    }
    if wanted(Section::Devices) {
        block::throughput(flags.runs.min(5), &mut report).context("the block device")?;
        vsock::throughput(flags.runs.min(5), &mut report).context("the vsock device")?;
    }
    if wanted(Section::Vmm) {
        vmm::figures(flags.runs, &mut report).context("the built-in VMM")?;
    }
    if flags.only == Some(Section::Vmm) {
        containers::programs(&husk_tests::Bed::empty(), &mut report).context("programs")?;
    }
    report.add("load of the machine, at the end", load(), "", None);
    report.print();
    report.write(&flags.json).with_context(|| format!("write {}", flags.json.display()))
}

/// What ran or wanted to in the last minute: on a machine with as many processors, times mean
/// nothing above that.
fn load() -> f64 {
    let average = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    average.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or(f64::NAN)
}

fn host(flags: &Flags, report: &mut Report) -> Result<()> {
    let bed = husk_tests::Bed::new();
    machine::readiness(&bed, &flags.inits, flags.runs, report).context("readiness")?;
    containers::against_the_floor(&bed, &flags.inits, flags.runs, report)
        .context("husk run against the floor")?;
    containers::programs(&bed, report).context("programs")?;
    containers::sizes(&bed, report).context("sizes")?;
    containers::throughput(&bed, flags.runs.min(5), report).context("throughput")?;
    flatten::against_tar(&bed, flags.runs.min(5), report).context("flattening")
}
