//! Command line of the builder. What it builds is in the library.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use husk_rootfs_builder::{Inputs, build};

/// Writes the guest image: kernel, initramfs with the agent as init, and a manifest.
#[derive(Parser)]
#[command(name = "rootfs-builder", version)]
struct Args {
    /// The agent: a static x86-64 program
    #[arg(long, value_name = "FILE")]
    agent: PathBuf,
    /// A folder that kernel-config/build made
    #[arg(long, value_name = "FOLDER")]
    kernel: PathBuf,
    /// Where vmlinux, initramfs.cpio and manifest.json go
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let inputs = Inputs { agent: args.agent, kernel: args.kernel };
    match build(&inputs, &args.out).with_context(|| format!("build {}", args.out.display())) {
        Ok(manifest) => {
            println!(
                "guest image: initramfs {} KiB, kernel {} {} KiB, protocol {}",
                manifest.initramfs.bytes / 1024,
                manifest.kernel.release,
                manifest.kernel.file.bytes / 1024,
                manifest.protocol
            );
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("rootfs-builder: {error:#}");
            ExitCode::FAILURE
        }
    }
}
