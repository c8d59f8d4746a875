//! Makes the image that `make run` and the tests start containers from.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use husk_tests::busybox_image;

/// Writes an OCI image layout with a static busybox in it
#[derive(Parser)]
struct Args {
    /// A static busybox
    #[arg(long, value_name = "FILE")]
    busybox: PathBuf,
    /// The folder of the layout
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("busybox-image: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    let program =
        fs::read(&args.busybox).with_context(|| format!("read {}", args.busybox.display()))?;
    let applets = busybox_image::applets(&args.busybox)?;
    busybox_image::write(&program, &applets, &args.out)
}
