//! What of husk works on this machine, what does not, and what to do about it. Looks and tries;
//! changes nothing but a file that it makes and removes.

use std::path::Path;

use super::dirs::{Dirs, GuestImage};
use super::error::{Error, chain};
use super::settings::Settings;
use crate::hypervisor::survey::{self, Finding};
use crate::hypervisor::{self, Choice, ChooseError};
use crate::storage;

/// Where nothing runs virtual machines.
const NEITHER_ADVICE: &str = "one of kvm and qemu is enough: see what is said of them";

/// How something stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// It works.
    Good,
    /// It does not, and containers run without it.
    Spare,
    /// It does not, and no container runs without it.
    Broken,
}

/// One line of a diagnosis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What was looked at.
    pub name: &'static str,
    /// How it stands.
    pub health: Health,
    /// What was found.
    pub found: String,
    /// What to do about it; empty where nothing is to be done.
    pub advice: String,
}

impl Check {
    fn good(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, health: Health::Good, found: found.into(), advice: String::new() }
    }

    /// An error's hint stands in brackets at its end.
    fn broken(name: &'static str, error: &dyn std::error::Error) -> Self {
        let text = chain(error);
        let hint = text.strip_suffix(')').and_then(|rest| rest.rsplit_once(" ("));
        let (found, advice) = match hint {
            Some((found, hint)) if !hint.starts_with("os error ") => (found, hint),
            _ => (text.as_str(), ""),
        };
        Self { name, health: Health::Broken, found: found.to_owned(), advice: advice.to_owned() }
    }

    fn spare(name: &'static str, finding: Finding) -> Self {
        let health = if finding.works { Health::Good } else { Health::Spare };
        Self { name, health, found: finding.found, advice: finding.advice.to_owned() }
    }
}

/// Looks at everything that running a container needs, on the hypervisor of `wish` or of the
/// configuration. Blocks for milliseconds, at most for some seconds.
#[must_use]
pub fn examine(wish: Option<Choice>) -> Vec<Check> {
    let (settings, configuration) = match Settings::load() {
        Ok(settings) => {
            let check = match settings.guest_deadline() {
                Ok(_) => Check::good("configuration", "read"),
                Err(error) => Check::broken("configuration", &error),
            };
            (settings, check)
        }
        Err(error) => (Settings::default(), Check::broken("configuration", &error)),
    };
    let mut checks = vec![
        configuration,
        Check::spare("kvm", survey::kvm()),
        Check::spare("qemu", survey::qemu()),
        choice(wish.or(settings.hypervisor).unwrap_or_default()),
        guest_image(&settings),
    ];
    match Dirs::find(&settings) {
        Ok(dirs) => {
            checks.push(writable("data folder", &dirs.data));
            checks.push(writable("runtime folder", &dirs.runtime));
        }
        Err(error) => checks.push(Check::broken("folders", &error)),
    }
    checks.push(match storage::find_mke2fs() {
        Ok(program) => Check::good("mke2fs", program.display().to_string()),
        Err(error) => Check::broken("mke2fs", &error),
    });
    checks
}

/// What would run a container.
fn choice(wish: Choice) -> Check {
    const NAME: &str = "hypervisor";
    match hypervisor::choose(wish) {
        Ok((_, verdict)) => {
            let hypervisor::Verdict { hypervisor, accelerator, reason } = verdict;
            Check::good(NAME, format!("{wish}: {hypervisor} with {accelerator} ({reason})"))
        }
        // Its own hint leads here.
        Err(error @ ChooseError::Nothing { .. }) => {
            Check { advice: NEITHER_ADVICE.to_owned(), ..Check::broken(NAME, &error) }
        }
        Err(error) => Check::broken(NAME, &error),
    }
}

fn guest_image(settings: &Settings) -> Check {
    const NAME: &str = "guest image";
    match GuestImage::find(settings) {
        Ok(image) => Check::good(NAME, image.kernel.display().to_string()),
        Err(error) => Check::broken(NAME, &error),
    }
}

/// Whether files can be made in a folder that may have to be made first.
fn writable(name: &'static str, folder: &Path) -> Check {
    let there = folder.ancestors().find(|folder| folder.is_dir()).unwrap_or(Path::new("/"));
    match tempfile::Builder::new().prefix(".husk-doctor").tempfile_in(there) {
        Ok(_) => Check::good(name, folder.display().to_string()),
        Err(error) => Check::broken(name, &Error::file("write", folder)(error)),
    }
}

/// Whether containers can run.
#[must_use]
pub fn is_well(checks: &[Check]) -> bool {
    checks.iter().all(|check| check.health != Health::Broken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folder_that_is_not_there_yet_can_be_made() {
        let folder = tempfile::tempdir().unwrap();
        let check = writable("data folder", &folder.path().join("a/b"));
        assert_eq!(check.health, Health::Good);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn folder_that_cannot_be_written_breaks_everything() {
        let check = writable("data folder", Path::new("/proc/husk"));
        assert_eq!(check.health, Health::Broken);
        assert!(check.found.starts_with("write /proc/husk"), "{}", check.found);
        assert!(!is_well(&[Check::good("qemu", ""), check]));
    }

    #[test]
    fn hint_of_an_error_is_its_advice() {
        let error = Error::NoGuestImage { tried: "/g".into() };
        let check = Check::broken("guest image", &error);
        assert_eq!(check.found, "no guest image in /g");
        assert!(check.advice.starts_with("build it"), "{}", check.advice);
    }
}
