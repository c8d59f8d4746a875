//! `run`, `create`, `start`, `attach`, `exec`: the verbs that put a process to work.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

use super::args::{self, Common, ProcessFlags};
use super::attached::{Attachment, Outcome, Signals, Terms, parse_detach_keys};
use super::failure::{Failure, print_error_line};
use super::wishes::{env_of, wishes};
use super::{images, known};
use crate::engine::Engine;
use crate::engine::control::{self, Timings};
use crate::engine::create::{Wishes, check_env, check_user, merge_env};
use crate::engine::error::Error;
use crate::engine::record::Process;
use crate::engine::store::Container;
use crate::image::progress::Style;

/// Nanoseconds of `CLOCK_MONOTONIC`: `--timings` starts here.
fn monotonic_ns() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
    now.map_or(0, |now| {
        u64::try_from(std::time::Duration::from(now).as_nanos()).unwrap_or_default()
    })
}

/// The image and the command after it. A word with a dash in the image's place is a flag that
/// clap did not know.
fn split_words(verb: &str, words: &[String]) -> Result<(String, Vec<String>), Failure> {
    let (first, rest) = words.split_first().ok_or_else(|| Failure::new("no image"))?;
    if first.starts_with('-') && first != "-" {
        return Err(known::unknown_flag(verb, first));
    }
    Ok((first.clone(), rest.to_vec()))
}

/// Makes the container; with `--cidfile`, the file is there before it.
fn make(
    engine: &Engine,
    common: &Common,
    image: &str,
    wishes: Wishes,
) -> Result<Container, Failure> {
    let cidfile = common.cidfile.as_deref().map(new_cidfile).transpose()?;
    let style = if common.quiet { Style::None } else { common.progress };
    let made = images::resolve_or_load(engine, image, style)
        .and_then(|image| Ok(engine.create(&image, wishes)?));
    match (made, cidfile) {
        (Ok(container), Some((mut file, path))) => {
            let written = file.write_all(container.config.id.as_str().as_bytes());
            written
                .map_err(|error| Failure::new(format!("cidfile {}: {error}", path.display())))?;
            Ok(container)
        }
        (Err(failure), Some((_, path))) => {
            // Ours, and empty.
            let _ = std::fs::remove_file(path);
            Err(failure)
        }
        (made, None) => made,
    }
}

fn new_cidfile(path: &Path) -> Result<(std::fs::File, &Path), Failure> {
    let file = OpenOptions::new().write(true).create_new(true).open(path);
    let file =
        file.map_err(|error| Failure::new(format!("cidfile {}: {error}", path.display())))?;
    Ok((file, path))
}

/// What to call a container that is not there yet.
fn object<'a>(common: &'a Common, image: &'a str) -> &'a str {
    common.name.as_deref().unwrap_or(image)
}

/// `husk create`.
pub fn create(flags: &args::Create) -> Result<u8, Failure> {
    let (image, command) = split_words("create", &flags.words)?;
    let during = format!("create {}", object(&flags.common, &image));
    let make = || {
        let engine = Engine::open()?;
        let wishes = wishes(&flags.common, &image, command, false)?;
        make(&engine, &flags.common, &image, wishes)
    };
    let container = make().map_err(|failure: Failure| failure.during(&during))?;
    super::print_line(container.config.id.as_str());
    Ok(0)
}

/// `husk run`.
pub fn run(flags: &args::Run) -> Result<u8, Failure> {
    let began = monotonic_ns();
    let (image, command) = split_words("run", &flags.words)?;
    let during = format!("run {}", object(&flags.common, &image));
    run_image(flags, &image, command, began).map_err(|failure| failure.during(&during))
}

fn run_image(
    flags: &args::Run,
    image: &str,
    command: Vec<String>,
    began: u64,
) -> Result<u8, Failure> {
    let process = &flags.common.process;
    let terms = Terms {
        terminal: process.tty,
        stdin: process.interactive,
        sig_proxy: flags.sig_proxy,
        detach_keys: parse_detach_keys(&flags.detach_keys).map_err(Failure::new)?,
    };
    if !flags.detach {
        terms.check_terminal().map_err(Failure::new)?;
    }
    let engine = Engine::open()?;
    let wishes = wishes(&flags.common, image, command, flags.detach)?;
    let container = make(&engine, &flags.common, image, wishes)?;
    let outcome = if flags.detach {
        start_detached(&engine, &container, began).map(|()| {
            super::print_line(container.config.id.as_str());
            0
        })
    } else {
        start_attached(&engine, &container, terms, began, flags.timings)
    };
    if outcome.is_err() {
        // A monitor that was killed, or that never came up, could not set its container right; this
        // does.
        engine.settle_failed_start(&container)?;
    }
    outcome
}

fn start_detached(engine: &Engine, container: &Container, began: u64) -> Result<(), Failure> {
    let mut session = engine.start(container, None, began)?;
    match session.started() {
        Ok(_) => Ok(()),
        Err(error) => {
            session.closed();
            Err(error.into())
        }
    }
}

/// Starts a container that ended.
pub fn start_again(engine: &Engine, container: &Container) -> Result<(), Failure> {
    start_detached(engine, container, monotonic_ns())
}

fn start_attached(
    engine: &Engine,
    container: &Container,
    terms: Terms,
    began: u64,
    timings: bool,
) -> Result<u8, Failure> {
    let session = engine.start(container, Some(terms.attach()), began)?;
    let signals = Signals::block()?;
    let mut attachment = Attachment::new(session, signals, terms)?;
    match attachment.started()? {
        Ok(streams) => finish(attachment.run(streams)?, timings),
        Err(signal) => {
            // As it stands now: it was not live when we began.
            if let Some(container) = engine.settle(container)? {
                engine.stop(&container, Some(0))?;
            }
            Ok(signal_exit(signal))
        }
    }
}

fn signal_exit(signal: i32) -> u8 {
    u8::try_from(128 + signal).unwrap_or(255)
}

fn finish(outcome: Outcome, timings: bool) -> Result<u8, Failure> {
    match outcome {
        Outcome::Detached => Ok(0),
        Outcome::Interrupted(signal) => Ok(signal_exit(signal)),
        Outcome::Exited(exited) => {
            if timings {
                print_timings(&exited.timings);
            }
            let exit_code = u8::try_from(exited.exit_code).unwrap_or(255);
            if exited.error.is_empty() {
                Ok(exit_code)
            } else {
                Err(Failure::from(Error::Monitor { exit_code, message: exited.error }))
            }
        }
    }
}

fn print_timings(timings: &Timings) {
    let rows = [
        ("client and monitor", timings.client_us),
        ("VM start", timings.vm_start_us),
        ("kernel", timings.kernel_us),
        ("agent", timings.agent_us),
        ("container", timings.container_us),
        ("run", timings.run_us),
        ("tear-down", timings.teardown_us),
    ];
    let total: u64 = rows.iter().map(|(_, us)| us).sum();
    for (name, us) in rows.into_iter().chain([("total", total)]) {
        print_error_line(&format!("{name:<20}{:>10}.{:03} ms", us / 1000, us % 1000));
    }
}

/// `husk start`.
pub fn start(flags: &args::Start) -> Result<u8, Failure> {
    let began = monotonic_ns();
    let engine = Engine::open()?;
    let names = &flags.containers.containers;
    if flags.attach || flags.interactive {
        let [name] = names.as_slice() else {
            return Err(Failure::new("start: only one container can be joined at a time"));
        };
        let during = |failure: Failure| failure.during(&format!("start {name}"));
        return start_joined(&engine, flags, name, began).map_err(during);
    }
    super::for_each("start", names, |name| {
        let container = engine.find(name)?;
        if !container.status.is_live() {
            start_detached(&engine, &container, began)?;
        }
        super::print_line(name);
        Ok(())
    })
}

fn start_joined(
    engine: &Engine,
    flags: &args::Start,
    name: &str,
    began: u64,
) -> Result<u8, Failure> {
    let container = engine.find(name)?;
    let process = &container.config.process;
    let terms = Terms {
        terminal: process.terminal,
        stdin: flags.interactive && process.stdin_open,
        sig_proxy: true,
        detach_keys: parse_detach_keys(&flags.detach_keys).map_err(Failure::new)?,
    };
    terms.check_terminal().map_err(Failure::new)?;
    if container.status.is_live() {
        return join(engine, &container, terms);
    }
    let outcome = start_attached(engine, &container, terms, began, false);
    if outcome.is_err() {
        engine.settle_failed_start(&container)?;
    }
    outcome
}

/// `husk attach`.
pub fn attach(flags: &args::Attach) -> Result<u8, Failure> {
    let during = |failure: Failure| failure.during(&format!("attach {}", flags.container));
    let join = || {
        let engine = Engine::open()?;
        let container = engine.find(&flags.container)?;
        let process = &container.config.process;
        let terms = Terms {
            terminal: process.terminal,
            stdin: !flags.no_stdin && process.stdin_open,
            sig_proxy: flags.sig_proxy,
            detach_keys: parse_detach_keys(&flags.detach_keys).map_err(Failure::new)?,
        };
        terms.check_terminal().map_err(Failure::new)?;
        join(&engine, &container, terms)
    };
    join().map_err(during)
}

fn join(engine: &Engine, container: &Container, terms: Terms) -> Result<u8, Failure> {
    let session = engine.attach(container, terms.attach())?;
    follow(session, terms)
}

fn follow(session: crate::engine::client::Session, terms: Terms) -> Result<u8, Failure> {
    let mut attachment = Attachment::new(session, Signals::block()?, terms)?;
    match attachment.started()? {
        Ok(streams) => finish(attachment.run(streams)?, false),
        Err(signal) => Ok(signal_exit(signal)),
    }
}

/// `husk exec`.
pub fn exec(flags: &args::Exec) -> Result<u8, Failure> {
    let (name, command) = split_words("exec", &flags.words)?;
    exec_in(flags, &name, command).map_err(|failure| failure.during(&format!("exec {name}")))
}

fn exec_in(flags: &args::Exec, name: &str, command: Vec<String>) -> Result<u8, Failure> {
    if command.first().is_none_or(String::is_empty) {
        return Err(Failure::new("no command specified"));
    }
    let engine = Engine::open()?;
    let container = engine.find(name)?;
    let terms = Terms {
        terminal: flags.process.tty,
        stdin: flags.process.interactive,
        // docker's exec passes no signals on.
        sig_proxy: false,
        detach_keys: parse_detach_keys(&flags.detach_keys).map_err(Failure::new)?,
    };
    if !flags.detach {
        terms.check_terminal().map_err(Failure::new)?;
    }
    let process = exec_process(&container, &flags.process, command)?;
    let attach = (!flags.detach).then(|| terms.attach());
    let exec = control::Exec { process, attach, privileged: flags.privileged };
    let mut session = engine.exec(&container, exec)?;
    if flags.detach {
        session.started()?;
        return Ok(0);
    }
    follow(session, terms)
}

/// The container's own process, with another command and what the flags change.
fn exec_process(
    container: &Container,
    flags: &ProcessFlags,
    args: Vec<String>,
) -> Result<Process, Failure> {
    let own = &container.config.process;
    let wished = env_of(flags)?;
    check_env(&wished)?;
    let mut env = own.env.clone();
    if flags.tty {
        merge_env(&mut env, &["TERM=xterm".to_owned()]);
    }
    merge_env(&mut env, &wished);
    let cwd = flags.workdir.clone().unwrap_or_else(|| own.cwd.clone());
    if !cwd.starts_with('/') {
        return Err(Failure::new(format!("working directory {cwd:?}: must be an absolute path")));
    }
    let user = flags.user.clone().unwrap_or_else(|| own.user.clone());
    check_user(&user)?;
    Ok(Process {
        args,
        env,
        user,
        cwd,
        terminal: flags.tty,
        stdin_open: flags.interactive,
        stdin_once: true,
        ..own.clone()
    })
}
