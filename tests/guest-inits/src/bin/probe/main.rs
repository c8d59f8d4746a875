//! Runs inside of containers for the agent's cases: makes system calls that no applet makes, and
//! prints what came of them. `probe SUBJECT ARGUMENT...`; one file for each chapter of the cases.

mod calls;
mod clocks;
mod hostile;
mod ipc;
mod limits;
mod notify;
mod scheduling;

use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let Some((subject, args)) = args.split_first() else {
        eprintln!("probe SUBJECT ARGUMENT...");
        return ExitCode::from(2);
    };
    let result = match *subject {
        "call" => calls::make(args),
        "call32" => calls::make_32(args),
        "clock" => clocks::show(args),
        "exchange" => hostile::exchange(args),
        "key" => hostile::key(args),
        "limit" => limits::show(args),
        "notify" => notify::decide(args),
        "scheduling" => scheduling::show(args),
        "shm" => ipc::shared_memory(args),
        "tcp" => ipc::tcp(args),
        "vsock" => hostile::vsock(args),
        _ => Err(format!("{subject}: no such subject")),
    };
    match result {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(text) => {
            eprintln!("probe: {text}");
            ExitCode::FAILURE
        }
    }
}
