//! Containers on disk, one folder each. Knows how to write so that no reader ever sees half a
//! file, and how to tell a container whose monitor has died.
//!
//! ```text
//! containers/lock            held while folders appear and go
//! containers/.new-ID/        being made; its maker holds ID's lock
//! containers/ID/config.json  replaced whole, by rename and update alone
//!               status.json  replaced whole
//!               lock         held by the monitor for as long as it lives
//!               disk.ext4    writable layer
//!               output.log   what the container wrote
//!               console.log  what its kernel wrote
//!               monitor.log  what its monitor had to say
//! ```

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use husk_protocols::id::ContainerId;
use jiff::Timestamp;
use serde::de::DeserializeOwned;

use super::dirs::Dirs;
use super::error::{Error, chain};
use super::record::{Config, Phase, Status};
use crate::sys::lock::{Lock, is_held};

const NEW_PREFIX: &str = ".new-";

/// Exit code of a container that went down with its monitor.
const EXIT_LOST: i32 = 255;

/// The folder of one container.
#[derive(Debug, Clone)]
pub struct ContainerDir(PathBuf);

impl ContainerDir {
    /// The writable layer.
    #[must_use]
    pub fn disk(&self) -> PathBuf {
        self.0.join("disk.ext4")
    }

    /// What the container wrote.
    #[must_use]
    pub fn output_log(&self) -> PathBuf {
        self.0.join("output.log")
    }

    /// What the guest kernel wrote.
    #[must_use]
    pub fn console_log(&self) -> PathBuf {
        self.0.join("console.log")
    }

    /// What the monitor had to say.
    #[must_use]
    pub fn monitor_log(&self) -> PathBuf {
        self.0.join("monitor.log")
    }

    /// Held by the monitor for as long as it lives.
    #[must_use]
    pub fn lock(&self) -> PathBuf {
        self.0.join("lock")
    }

    /// Whoever holds the lock, by its own word.
    #[must_use]
    pub fn monitor_pid(&self) -> Option<u32> {
        fs::read_to_string(self.lock()).ok()?.trim().parse().ok().filter(|&pid| pid > 1)
    }

    fn config(&self) -> PathBuf {
        self.0.join("config.json")
    }

    fn status(&self) -> PathBuf {
        self.0.join("status.json")
    }

    /// Replaces the status.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn write_status(&self, status: &Status) -> Result<(), Error> {
        write_json(&self.status(), status)
    }
}

/// A container as found on disk.
#[derive(Debug, Clone)]
pub struct Container {
    /// What was asked for.
    pub config: Config,
    /// How it stands.
    pub status: Status,
    /// Where it lives.
    pub dir: ContainerDir,
}

impl Container {
    /// The id as people read it.
    #[must_use]
    pub fn short_id(&self) -> &str {
        short(&self.config.id)
    }
}

/// The first twelve digits.
#[must_use]
pub fn short(id: &ContainerId) -> &str {
    id.as_str().get(..12).unwrap_or(id.as_str())
}

/// All containers of an installation.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
    sockets: PathBuf,
}

impl Store {
    /// Opens the store of an installation, which is created where it is missing.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn open(dirs: &Dirs) -> Result<Self, Error> {
        let root = dirs.containers();
        fs::create_dir_all(&root).map_err(Error::file("create", &root))?;
        Ok(Self { root, sockets: dirs.runtime.clone() })
    }

    /// Where the monitor of a container listens. Short: a Unix socket's path has 108 bytes.
    #[must_use]
    pub fn socket(&self, id: &ContainerId) -> PathBuf {
        self.sockets.join(format!("{}.sock", short(id)))
    }

    /// A monitor that was killed could not take its socket away.
    fn remove_socket(&self, id: &ContainerId) {
        // One that is not there is the rule.
        let _ = fs::remove_file(self.socket(id));
    }

    /// The folder of a container that exists.
    #[must_use]
    pub fn dir(&self, id: &ContainerId) -> ContainerDir {
        ContainerDir(self.root.join(id.as_str()))
    }

    fn lock(&self) -> Result<Lock, Error> {
        let path = self.root.join("lock");
        Lock::acquire(&path).map_err(Error::file("lock", path))
    }

    /// Makes a container: `fill` puts the large files into its folder, which nobody sees before
    /// everything is in it.
    ///
    /// # Errors
    /// [`Error::NameInUse`], those of `fill`, [`Error::File`]. Nothing is left behind.
    pub fn create(
        &self,
        config: &Config,
        fill: impl FnOnce(&ContainerDir) -> Result<(), Error>,
    ) -> Result<Container, Error> {
        self.refuse_taken_name(&self.lock()?, config)?;
        let new = self.root.join(format!("{NEW_PREFIX}{}", config.id));
        let made = self.make(config, &new, fill);
        if made.is_err() {
            // The error tells more than a second one would.
            let _ = fs::remove_dir_all(&new);
        }
        made
    }

    fn make(
        &self,
        config: &Config,
        new: &Path,
        fill: impl FnOnce(&ContainerDir) -> Result<(), Error>,
    ) -> Result<Container, Error> {
        let dir = ContainerDir(new.to_owned());
        let status = Status::created();
        let maker = {
            let _store = self.lock()?;
            fs::create_dir(new).map_err(Error::file("create", new))?;
            Lock::acquire(&dir.lock()).map_err(Error::file("lock", dir.lock()))?
        };
        fill(&dir)?;
        write_json(&dir.config(), config)?;
        dir.write_status(&status)?;
        let store = self.lock()?;
        self.refuse_taken_name(&store, config)?;
        let place = self.dir(&config.id);
        fs::rename(new, &place.0).map_err(Error::file("create", &place.0))?;
        drop(maker);
        Ok(Container { config: config.clone(), status, dir: place })
    }

    /// Replaces a container's record by what `change` makes of it; the records of the others are
    /// at hand.
    ///
    /// # Errors
    /// [`Error::NoSuchContainer`], those of `change`, [`Error::File`].
    pub fn change(
        &self,
        id: &ContainerId,
        change: impl FnOnce(&mut Config, &[Config]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let _store = self.lock()?;
        let (own, others): (Vec<_>, Vec<_>) =
            self.configs()?.into_iter().partition(|config| config.id == *id);
        let missing = || Error::NoSuchContainer(id.to_string());
        let mut config = own.into_iter().next().ok_or_else(missing)?;
        change(&mut config, &others)?;
        write_json(&self.dir(id).config(), &config)
    }

    fn refuse_taken_name(&self, _held: &Lock, config: &Config) -> Result<(), Error> {
        match self.configs()?.into_iter().find(|other| other.name == config.name) {
            None => Ok(()),
            Some(other) => {
                Err(Error::NameInUse { name: other.name, id: short(&other.id).to_owned() })
            }
        }
    }

    fn entries(&self) -> Result<Vec<PathBuf>, Error> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.root).map_err(Error::file("read", &self.root))? {
            found.push(entry.map_err(Error::file("read", &self.root))?.path());
        }
        Ok(found)
    }

    fn ids(&self) -> Result<Vec<ContainerId>, Error> {
        let name = |path: &PathBuf| path.file_name()?.to_str()?.parse().ok();
        Ok(self.entries()?.iter().filter(|path| path.is_dir()).filter_map(name).collect())
    }

    fn configs(&self) -> Result<Vec<Config>, Error> {
        let read = |id: &ContainerId| read_json(&self.dir(id).config()).transpose();
        self.ids()?.iter().filter_map(read).collect()
    }

    /// Every container, oldest first. Those whose monitor has died are set right on the way, and
    /// removed where they were to be.
    ///
    /// # Errors
    /// [`Error::File`], [`Error::Corrupt`].
    pub fn list(&self) -> Result<Vec<Container>, Error> {
        let mut all = Vec::new();
        for id in self.ids()? {
            all.extend(self.get(&id)?);
        }
        all.sort_by_key(|container: &Container| container.config.created);
        Ok(all)
    }

    /// The container of a name, an id, or the start of an id.
    ///
    /// # Errors
    /// [`Error::NoSuchContainer`], [`Error::Ambiguous`], and those of [`Store::list`].
    pub fn find(&self, reference: &str) -> Result<Container, Error> {
        let missing = || Error::NoSuchContainer(reference.to_owned());
        if reference.is_empty() {
            return Err(missing());
        }
        let configs = self.configs()?;
        let exact = |c: &&Config| c.name == reference || c.id.as_str() == reference;
        let id = match configs.iter().find(exact) {
            Some(config) => &config.id,
            None => {
                let mut starts = configs.iter().filter(|c| c.id.as_str().starts_with(reference));
                let first = starts.next().ok_or_else(missing)?;
                if starts.next().is_some() {
                    return Err(Error::Ambiguous(reference.to_owned()));
                }
                &first.id
            }
        };
        self.get(id)?.ok_or_else(missing)
    }

    /// One container by its id, or nothing when it is gone.
    ///
    /// # Errors
    /// [`Error::File`], [`Error::Corrupt`].
    pub fn get(&self, id: &ContainerId) -> Result<Option<Container>, Error> {
        let dir = self.dir(id);
        let Some(config) = read_json::<Config>(&dir.config())? else { return Ok(None) };
        let Some(status) = read_json::<Status>(&dir.status())? else { return Ok(None) };
        let container = Container { config, status, dir };
        if !container.status.is_live() || self.is_attended(&container)? {
            return Ok(Some(container));
        }
        self.settle(container)
    }

    /// Whether the container's monitor lives.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn is_attended(&self, container: &Container) -> Result<bool, Error> {
        let lock = container.dir.lock();
        is_held(&lock).map_err(Error::file("look at", lock))
    }

    /// The monitor is gone. It may have written its last words between our two looks, so look
    /// again, this time with nobody able to start it meanwhile.
    fn settle(&self, mut container: Container) -> Result<Option<Container>, Error> {
        let lock = container.dir.lock();
        let Some(_lock) = Lock::try_acquire(&lock).map_err(Error::file("lock", lock))? else {
            return Ok(Some(container));
        };
        let Some(status) = read_json::<Status>(&container.dir.status())? else { return Ok(None) };
        container.status = status;
        if !container.status.is_live() {
            return Ok(Some(container));
        }
        self.remove_socket(&container.config.id);
        if container.config.auto_remove {
            self.remove_dir(&container.config.id)?;
            return Ok(None);
        }
        container.status.phase = Phase::Exited;
        container.status.paused = false;
        container.status.exit_code = EXIT_LOST;
        container.status.error = "the monitor was killed".to_owned();
        container.status.finished = Some(Timestamp::now());
        container.status.monitor_pid = 0;
        container.status.vm_pid = 0;
        if let Err(error) = container.dir.write_status(&container.status) {
            // A full disk keeps nobody from looking: the next look comes to the same.
            tracing::debug!(error = %chain(&error), "status of a container without a monitor");
        }
        Ok(Some(container))
    }

    /// Takes a container's folder away. The caller made sure that nobody uses it.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn remove_dir(&self, id: &ContainerId) -> Result<(), Error> {
        self.remove_socket(id);
        let dir = self.dir(id).0;
        let doomed = self.root.join(format!("{NEW_PREFIX}gone-{id}"));
        {
            let _store = self.lock()?;
            match fs::rename(&dir, &doomed) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                Err(error) => return Err(Error::file("remove", dir)(error)),
            }
        }
        match fs::remove_dir_all(&doomed) {
            // Somebody who looked for abandoned folders was faster.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed.map_err(Error::file("remove", doomed)),
        }
    }

    /// Folders whose maker (or remover) died half way.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn clear_abandoned(&self) -> Result<(), Error> {
        let is_new = |path: &PathBuf| {
            path.file_name()
                .is_some_and(|name| name.as_encoded_bytes().starts_with(NEW_PREFIX.as_bytes()))
        };
        let _store = self.lock()?;
        for path in self.entries()?.into_iter().filter(is_new) {
            let lock = path.join("lock");
            // What cannot be looked at is left alone.
            if !is_held(&lock).unwrap_or(true) {
                // Its remover may be at work on it too.
                let _ = fs::remove_dir_all(&path);
            }
        }
        Ok(())
    }
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, Error> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|source| Error::Corrupt { path: path.to_owned(), source }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::file("read", path)(error)),
    }
}

/// Temp file, fsync, rename: rename(2) replaces atomically.
fn write_json(path: &Path, value: &impl serde::Serialize) -> Result<(), Error> {
    let write = || -> io::Result<()> {
        let temp = path.with_extension("json.new");
        let mut file = File::create(&temp)?;
        file.write_all(&serde_json::to_vec_pretty(value)?)?;
        file.sync_all()?;
        fs::rename(&temp, path)
    };
    write().map_err(Error::file("write", path))
}
