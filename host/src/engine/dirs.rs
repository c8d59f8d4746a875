//! Where things are: state, sockets, the guest image. Paths only; nothing is read here.

use std::env;
use std::path::{Path, PathBuf};

use nix::unistd::Uid;

use super::error::Error;
use super::settings::Settings;

/// The folders of one husk installation.
#[derive(Debug, Clone)]
pub struct Dirs {
    /// Images and containers: survives a reboot.
    pub data: PathBuf,
    /// Sockets: does not.
    pub runtime: PathBuf,
}

impl Dirs {
    /// `HUSK_DATA_DIR` and `HUSK_RUNTIME_DIR`, else those of the configuration, else /var/lib/husk
    /// and /run/husk for root, else below `$XDG_DATA_HOME` and `$XDG_RUNTIME_DIR`.
    ///
    /// # Errors
    /// When there is neither a variable nor a home to derive a folder from.
    pub fn find(settings: &Settings) -> Result<Self, Error> {
        let root = Uid::effective().is_root();
        let data = match dir_var("HUSK_DATA_DIR")?.or(settings.data_dir.clone()) {
            Some(dir) => dir,
            None if root => PathBuf::from("/var/lib/husk"),
            None => dir_var("XDG_DATA_HOME")?
                .or(dir_var("HOME")?.map(|home| home.join(".local/share")))
                .ok_or(Error::NoHome { variable: "HOME" })?
                .join("husk"),
        };
        let runtime = match dir_var("HUSK_RUNTIME_DIR")?.or(settings.runtime_dir.clone()) {
            Some(dir) => dir,
            None if root => PathBuf::from("/run/husk"),
            None => dir_var("XDG_RUNTIME_DIR")?
                .ok_or(Error::NoHome { variable: "XDG_RUNTIME_DIR" })?
                .join("husk"),
        };
        Ok(Self { data, runtime })
    }

    /// The image store.
    #[must_use]
    pub fn images(&self) -> PathBuf {
        self.data.join("images")
    }

    /// One folder per container.
    #[must_use]
    pub fn containers(&self) -> PathBuf {
        self.data.join("containers")
    }

    /// What can be made again: templates of writable layers.
    #[must_use]
    pub fn cache(&self) -> PathBuf {
        self.data.join("cache")
    }
}

fn dir_var(name: &'static str) -> Result<Option<PathBuf>, Error> {
    let Some(dir) = env::var_os(name).filter(|dir| !dir.is_empty()).map(PathBuf::from) else {
        return Ok(None);
    };
    if dir.is_absolute() { Ok(Some(dir)) } else { Err(Error::RelativeDir { variable: name, dir }) }
}

/// Kernel and initramfs that every VM boots.
#[derive(Debug, Clone)]
pub struct GuestImage {
    /// Uncompressed ELF.
    pub kernel: PathBuf,
    /// newc cpio with the agent as /init.
    pub initramfs: PathBuf,
}

impl GuestImage {
    /// Looks in `HUSK_GUEST_DIR`, or where the configuration says, or beside the executable
    /// (`../guest`), or in /usr/lib/husk/guest.
    ///
    /// # Errors
    /// [`Error::NoGuestImage`] with the folder that was looked into last.
    pub fn find(settings: &Settings) -> Result<Self, Error> {
        let beside = env::current_exe()
            .ok()
            .and_then(|exe| exe.canonicalize().ok())
            .and_then(|exe| Some(exe.parent()?.parent()?.join("guest")));
        let candidates = match dir_var("HUSK_GUEST_DIR")?.or(settings.guest_dir.clone()) {
            Some(dir) => vec![dir],
            None => beside.into_iter().chain([PathBuf::from("/usr/lib/husk/guest")]).collect(),
        };
        candidates
            .iter()
            .find_map(|dir| Self::in_dir(dir))
            .ok_or_else(|| Error::NoGuestImage { tried: candidates[0].clone() })
    }

    fn in_dir(dir: &Path) -> Option<Self> {
        let image = Self { kernel: dir.join("vmlinux"), initramfs: dir.join("initramfs.cpio") };
        (image.kernel.is_file() && image.initramfs.is_file()).then_some(image)
    }
}
