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
    /// The built-in VMM with guests that have no kernel
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
    if wanted(Section::Host) {
        host(&flags, &mut report)?;
    }
    if wanted(Section::Agent) {
        agent::against_runtimes(flags.runs, &mut report).context("the agent against runtimes")?;
    }
    if wanted(Section::Devices) {
        block::throughput(flags.runs.min(5), &mut report).context("the block device")?;
    }
    if wanted(Section::Vmm) {
        vmm::figures(flags.runs, &mut report).context("the built-in VMM")?;
    }
    report.print();
    report.write(&flags.json).with_context(|| format!("write {}", flags.json.display()))
}

fn host(flags: &Flags, report: &mut Report) -> Result<()> {
    let bed = husk_tests::Bed::new();
    machine::readiness(&bed, &flags.inits, flags.runs, report).context("readiness")?;
    containers::against_the_floor(&bed, &flags.inits, flags.runs, report)
        .context("husk run against the floor")?;
    containers::sizes(&bed, report).context("sizes")?;
    containers::throughput(&bed, flags.runs.min(5), report).context("throughput")?;
    flatten::against_tar(&bed, flags.runs.min(5), report).context("flattening")
}
