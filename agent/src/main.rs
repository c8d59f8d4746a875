//! PID 1 of the guest.
mod sys; mod mount; mod container; mod spec; mod failure; mod network; mod storage;
mod cgroup;
fn main() -> std::process::ExitCode { container::run() }
