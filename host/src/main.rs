//! The `husk` command, which is also the monitor of each container that it starts.

use std::process::ExitCode;

use husk::engine::monitor;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let filter = EnvFilter::try_from_env("HUSK_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
    // A monitor's standard error is a file: when the disk is full, that is no reason to panic.
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .log_internal_errors(false)
        .init();
    let words: Vec<String> = std::env::args().collect();
    match words.as_slice() {
        [_, command, id] if command == monitor::COMMAND => match id.parse() {
            Ok(id) => monitor::main(&id),
            Err(_) => ExitCode::from(husk::engine::error::EXIT_HUSK),
        },
        _ => husk::cli::main(),
    }
}
