//! `stop`, `kill`, `wait`, `rm`: the verbs that end containers.

use super::args;
use super::failure::Failure;
use super::{for_each, print_line};
use crate::engine::Engine;
use crate::engine::create::parse_signal;
use crate::engine::error::Error;
use crate::engine::store::Container;

/// Seconds until SIGKILL, docker's default.
const STOP_TIMEOUT_S: i64 = 10;

/// Seconds between stop signal and SIGKILL; `None` waits for ever.
pub fn grace(wished: Option<i64>, container: &Container) -> Option<u64> {
    let own = container.config.process.stop_timeout_s;
    u64::try_from(wished.or(own).unwrap_or(STOP_TIMEOUT_S)).ok()
}

/// `husk stop`.
pub fn stop(flags: &args::Stop) -> Result<u8, Failure> {
    let engine = Engine::open()?;
    for_each("stop", &flags.containers.containers, |name| {
        let container = engine.find(name)?;
        engine.stop(&container, grace(flags.time, &container))?;
        print_line(name);
        Ok(())
    })
}

/// `husk kill`.
pub fn kill(flags: &args::Kill) -> Result<u8, Failure> {
    let signal = parse_signal(&flags.signal)?;
    let engine = Engine::open()?;
    for_each("kill", &flags.containers.containers, |name| {
        engine.signal(&engine.find(name)?, signal)?;
        print_line(name);
        Ok(())
    })
}

/// `husk wait`.
pub fn wait(flags: &args::Containers) -> Result<u8, Failure> {
    let engine = Engine::open()?;
    for_each("wait", &flags.containers, |name| {
        let exited = engine.wait(&engine.find(name)?)?;
        print_line(&exited.exit_code.to_string());
        Ok(())
    })
}

/// `husk rm`.
pub fn rm(flags: &args::Rm) -> Result<u8, Failure> {
    let engine = Engine::open()?;
    for_each("rm", &flags.containers.containers, |name| {
        match engine.find(name) {
            Ok(container) => engine.remove(&container, flags.force)?,
            // docker's rm -f is content with what is gone.
            Err(Error::NoSuchContainer(_)) if flags.force => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        print_line(name);
        Ok(())
    })
}
