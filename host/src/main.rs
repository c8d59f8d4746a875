//! The `husk` command, which is also the monitor of each container that it starts, and the VMM of
//! each monitor that has the built-in one.

use std::ffi::OsString;
use std::process::ExitCode;

use husk::engine::monitor;
use husk_vmm::process as vmm;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    // Words may be any bytes.
    let words: Vec<OsString> = std::env::args_os().collect();
    // First of all: a VMM has one thread, no files and no log of its own.
    if matches!(words.as_slice(), [_, command] if command == vmm::COMMAND) {
        return vmm::main();
    }
    let filter = EnvFilter::try_from_env("HUSK_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
    // A monitor's standard error is a file: when the disk is full, that is no reason to panic.
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .log_internal_errors(false)
        .init();
    match words.as_slice() {
        [_, command, id] if command == monitor::COMMAND => {
            match id.to_str().and_then(|id| id.parse().ok()) {
                Some(id) => monitor::main(&id),
                None => ExitCode::from(husk::engine::error::EXIT_HUSK),
            }
        }
        _ => husk::cli::main(),
    }
}
