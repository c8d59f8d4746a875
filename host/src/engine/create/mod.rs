//! From an image and a user's wishes to a container's record. What makes no sense is refused
//! here, before anything is on disk.

mod checks;

pub use checks::{check_name, check_resources, check_user};

use jiff::Timestamp;

use super::Engine;
use super::error::Error;
use super::names::{random_id, random_name};
use super::record::{
    Config, Filesystem, ImageUse, Notes, Process, Resources, Rlimit, Security, Surroundings,
};
use super::store::{Container, short};
use crate::hypervisor::Choice;
use crate::image::Image;
use crate::storage::{self, Life};

/// What the user wishes for. Empty and `None` leave it to the image or to husk.
#[derive(Debug, Clone, Default)]
pub struct Wishes {
    /// The image, as typed.
    pub image_reference: String,
    /// `--name`.
    pub name: Option<String>,
    /// `--hostname`.
    pub hostname: Option<String>,
    /// What runs.
    pub process: ProcessWishes,
    /// `-m`, `--cpus` and their like.
    pub resources: Resources,
    /// `--read-only`, `--tmpfs` and their like.
    pub filesystem: Filesystem,
    /// `--privileged`, `--cap-add` and their like.
    pub security: Security,
    /// `--dns`, `--sysctl` and their like.
    pub surroundings: Surroundings,
    /// `--label`, `--annotation`.
    pub notes: Notes,
    /// `--rm`.
    pub auto_remove: bool,
    /// `--hypervisor`; the configuration's without it.
    pub hypervisor: Option<Choice>,
}

/// What the user wishes of a container's process.
#[derive(Debug, Clone, Default)]
pub struct ProcessWishes {
    /// Words after the image.
    pub command: Vec<String>,
    /// `--entrypoint`; an empty one clears the image's.
    pub entrypoint: Option<String>,
    /// `NAME=value`, in order.
    pub env: Vec<String>,
    /// `-u`.
    pub user: Option<String>,
    /// `-w`.
    pub workdir: Option<String>,
    /// `-t`.
    pub terminal: bool,
    /// `-i`.
    pub stdin_open: bool,
    /// stdin ends with the first client.
    pub stdin_once: bool,
    /// `--stop-signal`.
    pub stop_signal: Option<String>,
    /// `--stop-timeout`.
    pub stop_timeout_s: Option<i64>,
    /// `--group-add`.
    pub groups: Vec<String>,
    /// `--ulimit`, at most one of each name.
    pub rlimits: Vec<Rlimit>,
    /// `--oom-score-adj`.
    pub oom_score_adj: i32,
}

/// What every image can rely on.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

impl Engine {
    /// Makes a container of an image. It does not run yet.
    ///
    /// # Errors
    /// [`Error::Invalid`], [`Error::NameInUse`], [`Error::Storage`], [`Error::File`]; nothing is
    /// left behind.
    pub fn create(&self, image: &Image, wishes: Wishes) -> Result<Container, Error> {
        let hypervisor = wishes.hypervisor.or(self.settings.hypervisor).unwrap_or_default();
        let config = config(image, wishes, hypervisor)?;
        // Nobody takes the image away before the record says that it is needed.
        let _pin = self.images.pin()?;
        self.images.resolve(&config.image.id)?;
        let layers = storage::Template::open(&self.dirs.cache())?;
        // A container that starts once and is removed at its end never needs its layer again.
        let life = if config.auto_remove { Life::OneVm } else { Life::Kept };
        let size_bytes = storage::DEFAULT_SIZE_BYTES;
        self.containers.create(&config, |dir| Ok(layers.create(&dir.disk(), size_bytes, life)?))
    }
}

fn config(image: &Image, wishes: Wishes, hypervisor: Choice) -> Result<Config, Error> {
    let random = Error::file("read", "/dev/urandom");
    let (id, fallback) = random_id().and_then(|id| Ok((id, random_name()?))).map_err(random)?;
    let name = wishes.name.unwrap_or(fallback);
    let hostname = wishes.hostname.unwrap_or_else(|| short(&id).to_owned());
    let config = Config {
        name,
        created: Timestamp::now(),
        image: ImageUse {
            reference: wishes.image_reference,
            id: image.id.to_string(),
            disk: image.disk.clone(),
        },
        process: process(image, wishes.process, &hostname)?,
        resources: wishes.resources,
        filesystem: wishes.filesystem,
        hostname,
        auto_remove: wishes.auto_remove,
        hypervisor: hypervisor.to_string(),
        id,
        security: wishes.security,
        surroundings: wishes.surroundings,
        notes: notes(image, wishes.notes),
    };
    checks::check(&config)?;
    Ok(config)
}

/// The image's labels, and over them the user's.
fn notes(image: &Image, mut notes: Notes) -> Notes {
    let labels = image.config.config().as_ref().and_then(|config| config.labels().as_ref());
    for (name, value) in labels.into_iter().flatten() {
        notes.labels.entry(name.clone()).or_insert_with(|| value.clone());
    }
    notes
}

fn process(image: &Image, wishes: ProcessWishes, hostname: &str) -> Result<Process, Error> {
    let none = Vec::new();
    let defaults = image.config.config().as_ref();
    let image_entrypoint = defaults.and_then(|c| c.entrypoint().as_ref()).unwrap_or(&none);
    let image_command = defaults.and_then(|c| c.cmd().as_ref()).unwrap_or(&none);
    let image_env = defaults.and_then(|c| c.env().as_ref()).unwrap_or(&none);
    let mut args = match &wishes.entrypoint {
        // As docker: a new entry point forgets the image's command too.
        Some(entrypoint) if entrypoint.is_empty() => Vec::new(),
        Some(entrypoint) => vec![entrypoint.clone()],
        None => image_entrypoint.clone(),
    };
    if !wishes.command.is_empty() {
        args.extend(wishes.command);
    } else if wishes.entrypoint.is_none() {
        args.extend(image_command.iter().cloned());
    }
    match args.first() {
        None => return Err(Error::Invalid("no command specified".to_owned())),
        Some(first) if first.is_empty() => {
            return Err(Error::Invalid("the command is empty".to_owned()));
        }
        Some(_) => {}
    }
    let cwd = wishes
        .workdir
        .or_else(|| defaults.and_then(|c| c.working_dir().clone()))
        .filter(|dir| !dir.is_empty())
        .unwrap_or_else(|| "/".to_owned());
    let user = wishes.user.or_else(|| defaults.and_then(|c| c.user().clone())).unwrap_or_default();
    let image_signal = defaults.and_then(|c| c.stop_signal().as_ref());
    let stop_signal = match wishes.stop_signal.as_ref().or(image_signal) {
        Some(name) => parse_signal(name)?,
        None => nix::libc::SIGTERM,
    };
    let env = environment(image_env, &wishes.env, wishes.terminal, hostname)?;
    Ok(Process {
        args,
        env,
        user,
        cwd,
        terminal: wishes.terminal,
        stdin_open: wishes.stdin_open,
        stdin_once: wishes.stdin_once,
        stop_signal,
        stop_timeout_s: wishes.stop_timeout_s,
        groups: wishes.groups,
        rlimits: wishes.rlimits,
        oom_score_adj: wishes.oom_score_adj,
    })
}

/// Later entries win, in the place of the first. An entry without `=` removes a variable.
fn environment(
    image: &[String],
    wished: &[String],
    terminal: bool,
    hostname: &str,
) -> Result<Vec<String>, Error> {
    let mut env = vec![DEFAULT_PATH.to_owned(), format!("HOSTNAME={hostname}")];
    if terminal {
        env.push("TERM=xterm".to_owned());
    }
    merge_env(&mut env, image);
    check_env(wished)?;
    merge_env(&mut env, wished);
    Ok(env)
}

/// Puts `more` over `env`.
pub fn merge_env(env: &mut Vec<String>, more: &[String]) {
    for entry in more {
        let name = entry.split('=').next().unwrap_or_default();
        let same = |other: &String| other.split('=').next() == Some(name);
        match env.iter().position(same) {
            Some(index) if entry.contains('=') => env[index].clone_from(entry),
            Some(index) => drop(env.remove(index)),
            None if entry.contains('=') => env.push(entry.clone()),
            None => {}
        }
    }
}

/// Refuses variables without a name.
///
/// # Errors
/// [`Error::Invalid`].
pub fn check_env(entries: &[String]) -> Result<(), Error> {
    match entries.iter().find(|entry| entry.is_empty() || entry.starts_with('=')) {
        Some(entry) => Err(Error::Invalid(format!("environment variable {entry:?} has no name"))),
        None => Ok(()),
    }
}

/// A signal by number or name, with or without SIG.
///
/// # Errors
/// [`Error::Invalid`].
pub fn parse_signal(text: &str) -> Result<i32, Error> {
    let unknown = || Error::Invalid(format!("signal {text:?} is unknown"));
    if let Ok(number) = text.parse::<i32>() {
        return if (1..=64).contains(&number) { Ok(number) } else { Err(unknown()) };
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(offset) = name.strip_prefix("RTMIN") {
        return realtime(nix::libc::SIGRTMIN(), offset).ok_or_else(unknown);
    }
    if let Some(offset) = name.strip_prefix("RTMAX") {
        return realtime(nix::libc::SIGRTMAX(), offset).ok_or_else(unknown);
    }
    let signal: nix::sys::signal::Signal = format!("SIG{name}").parse().map_err(|_| unknown())?;
    Ok(signal as i32)
}

fn realtime(base: i32, offset: &str) -> Option<i32> {
    let offset: i32 = if offset.is_empty() { 0 } else { offset.parse().ok()? };
    let number = base.checked_add(offset)?;
    (nix::libc::SIGRTMIN()..=nix::libc::SIGRTMAX()).contains(&number).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(texts: &[&str]) -> Vec<String> {
        texts.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn wished_variables_win_over_the_image_and_a_bare_name_removes() {
        let image = strings(&["PATH=/image", "LANG=C", "SECRET=x"]);
        let env = environment(&image, &strings(&["LANG=de", "SECRET", "NEW="]), true, "h").unwrap();
        assert_eq!(env, strings(&["PATH=/image", "HOSTNAME=h", "TERM=xterm", "LANG=de", "NEW="]));
        assert!(environment(&image, &strings(&["=x"]), false, "h").is_err());
    }

    #[test]
    fn signals_are_known_by_every_name_that_docker_takes() {
        for (text, number) in
            [("9", 9), ("KILL", 9), ("SIGKILL", 9), ("sigterm", 15), ("RTMIN+3", 37)]
        {
            assert_eq!(parse_signal(text).unwrap(), number, "{text}");
        }
        for bad in ["", "0", "65", "SIGNOPE", "RTMIN+99", "-9"] {
            assert!(parse_signal(bad).is_err(), "{bad}");
        }
    }
}
