//! What husk costs, as ratios measured in one run: machines are shared and noisy, so what is
//! compared runs in turns, and medians are told. Prints a table and writes JSON; fails nothing,
//! for a limit that is missed is a fact and not an error.

mod containers;
mod flatten;
mod machine;
mod report;

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Parser;
use report::Report;

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
}

fn main() -> Result<()> {
    let flags = Flags::parse();
    let mut report = Report::default();
    let bed = husk_tests::Bed::new();
    machine::readiness(&bed, &flags.inits, flags.runs, &mut report).context("readiness")?;
    containers::against_the_floor(&bed, &flags.inits, flags.runs, &mut report)
        .context("husk run against the floor")?;
    containers::sizes(&bed, &mut report).context("sizes")?;
    containers::throughput(&bed, flags.runs.min(5), &mut report).context("throughput")?;
    flatten::against_tar(&bed, flags.runs.min(5), &mut report).context("flattening")?;
    report.print();
    report.write(&flags.json).with_context(|| format!("write {}", flags.json.display()))
}
