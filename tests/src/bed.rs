//! A husk installation of a test's own: folders, image, guards. Whatever a test leaves running is
//! removed at its end; whatever cannot be removed fails it.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use husk::hypervisor::Choice;
use serde_json::Value;
use tempfile::TempDir;

use crate::busybox_image;
use crate::hypervisor::{self, NARROW, test_kernel};
use crate::image::{Image, Packing};
use crate::leftovers;
use crate::permit::Permit;
use crate::run::Run;
use crate::terminal::Terminal;
use crate::wait::{PATIENCE, eventually, within};

/// The name of the image that [`Bed::new`] loads.
pub const BUSYBOX: &str = "busybox:latest";

/// How long a guest may take to come up, and for an answer: husk's own limit.
const GUEST_SECONDS: u32 = 60;
/// Where Debian's busybox-static has its program.
const BUSYBOX_PLACES: [&str; 2] = ["/bin/busybox", "/usr/bin/busybox"];
/// What is shown of a log when a test fails.
const LOG_TAIL: usize = 4000;

/// An installation, and the right to run a virtual machine in it.
pub struct Bed {
    dir: TempDir,
    bin: PathBuf,
    guest: PathBuf,
    hypervisor: Choice,
    _permit: Option<Permit>,
}

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("this crate is in a workspace")
}

/// What a build left, by variable or below build/.
fn built(variable: &str, below: &str, what: &str) -> PathBuf {
    let path = std::env::var_os(variable)
        .map_or_else(|| workspace().join("build").join(below), PathBuf::from);
    assert!(path.exists(), "{what} is not in {} (make build, or set {variable})", path.display());
    path.canonicalize().expect("a path that exists has a canonical form")
}

/// The husk program: of `HUSK_BIN`, or what `make build` has built.
///
/// # Panics
/// Without one.
#[must_use]
pub fn husk_program() -> PathBuf {
    built("HUSK_BIN", "bin/husk", "husk")
}

/// The program of Debian's busybox-static.
///
/// # Panics
/// Without it.
#[must_use]
pub fn busybox_program() -> &'static [u8] {
    static PROGRAM: OnceLock<Vec<u8>> = OnceLock::new();
    PROGRAM.get_or_init(|| fs::read(busybox_path()).expect("busybox can be read"))
}

fn busybox_path() -> &'static Path {
    let there = BUSYBOX_PLACES.iter().map(Path::new).find(|path| path.is_file());
    there.expect("busybox is not in /bin or /usr/bin (apt-get install busybox-static)")
}

/// The image of [`BUSYBOX`]; tests put layers on top of it.
///
/// # Panics
/// Without busybox.
#[must_use]
pub fn busybox() -> Image {
    static APPLETS: OnceLock<Vec<String>> = OnceLock::new();
    let applets = APPLETS
        .get_or_init(|| busybox_image::applets(busybox_path()).expect("busybox lists its applets"));
    busybox_image::image(busybox_program(), applets, Packing::Tar)
}

impl Bed {
    /// An installation with [`BUSYBOX`] loaded. Waits until the machine has room for its virtual
    /// machines.
    ///
    /// # Panics
    /// When something that it needs is not there, with what and how to get it.
    #[must_use]
    pub fn new() -> Self {
        Self::on(hypervisor::under_test())
    }

    /// The same on a hypervisor of the test's choice. The built-in VMM boots `HUSK_TEST_KERNEL`, if
    /// there is one.
    ///
    /// # Panics
    /// As [`Bed::new`].
    #[must_use]
    pub fn on(hypervisor: Choice) -> Self {
        let permit = Permit::wait().expect("permits can be kept in the folder for temporary files");
        let mut bed = Self::make(hypervisor, Some(permit));
        let mut image = busybox();
        if let Some(kernel) = test_kernel().filter(|_| hypervisor == Choice::Kvm) {
            bed.replace_kernel(&kernel);
            image = image
                .set("Env", serde_json::json!([format!("PATH={}", busybox_image::PATH), NARROW]));
        }
        bed.load(&image, "busybox", "latest");
        bed
    }

    /// A guest image of its own, with another kernel.
    fn replace_kernel(&mut self, kernel: &Path) {
        let folder = self.path("guest-of-kernel");
        fs::create_dir(&folder).expect("a folder can be made");
        for (name, file) in
            [("vmlinux", kernel), ("initramfs.cpio", &self.guest.join("initramfs.cpio"))]
        {
            symlink(file, folder.join(name)).expect("a link can be made");
        }
        self.guest = folder;
    }

    /// An installation without images, for commands that start no virtual machine.
    ///
    /// # Panics
    /// As [`Bed::new`].
    #[must_use]
    pub fn empty() -> Self {
        Self::make(hypervisor::under_test(), None)
    }

    fn make(hypervisor: Choice, permit: Option<Permit>) -> Self {
        // Short: below it is a Unix socket, whose path has 108 bytes.
        let dir = tempfile::Builder::new().prefix("hk").tempdir().expect("a folder can be made");
        let bed = Self {
            bin: husk_program(),
            guest: built("HUSK_GUEST_DIR", "guest", "the guest image"),
            dir,
            hypervisor,
            _permit: permit,
        };
        for folder in [bed.data(), bed.runtime()] {
            fs::create_dir(folder).expect("a folder can be made");
        }
        let qemu = Path::new("qemu-system-x86_64");
        let path = std::env::var_os("PATH").unwrap_or_default();
        let found = std::env::split_paths(&path).any(|folder| folder.join(qemu).is_file());
        assert!(found, "qemu-system-x86_64 is not in PATH (apt-get install qemu-system-x86)");
        bed
    }

    /// Where images and containers are.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.dir.path().join("d")
    }

    /// Where sockets are.
    #[must_use]
    pub fn runtime(&self) -> PathBuf {
        self.dir.path().join("r")
    }

    /// A path for a test's own file.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The folder of everything above.
    #[must_use]
    pub fn root(&self) -> &Path {
        self.dir.path()
    }

    /// The husk under test.
    #[must_use]
    pub fn bin(&self) -> &Path {
        &self.bin
    }

    /// The guest image under test: a folder.
    #[must_use]
    pub fn guest(&self) -> &Path {
        &self.guest
    }

    pub(crate) fn variables(&self) -> Vec<(&'static str, OsString)> {
        let mut variables = vec![
            ("HUSK_DATA_DIR", self.data().into()),
            ("HUSK_RUNTIME_DIR", self.runtime().into()),
            ("HUSK_GUEST_DIR", self.guest.clone().into()),
            ("HUSK_HYPERVISOR", self.hypervisor.to_string().into()),
            // Not the configuration of whoever runs the tests.
            ("HUSK_CONFIG", "/dev/null".into()),
        ];
        let patience = crate::wait::patience();
        if patience > 1 {
            variables.push(("HUSK_GUEST_TIMEOUT", (GUEST_SECONDS * patience).to_string().into()));
        }
        variables
    }

    /// A husk command.
    #[must_use]
    pub fn husk(&self, words: &[&str]) -> Run<'_> {
        Run::new(self, self.bin.as_os_str(), words)
    }

    /// `husk run --rm` with [`BUSYBOX`], `flags` before and `command` after it.
    #[must_use]
    pub fn run(&self, flags: &[&str], command: &[&str]) -> Run<'_> {
        self.husk(&[&["run", "--rm"], flags, &[BUSYBOX], command].concat())
    }

    /// `husk run --rm` of a shell script.
    #[must_use]
    pub fn sh(&self, flags: &[&str], script: &str) -> Run<'_> {
        self.run(flags, &["sh", "-c", script])
    }

    /// `husk exec` of a shell script.
    #[must_use]
    pub fn exec_sh(&self, container: &str, script: &str) -> Run<'_> {
        self.husk(&["exec", container, "sh", "-c", script])
    }

    /// A container called `name` that runs a shell script in the background.
    pub fn start_sh(&self, name: &str, script: &str) {
        self.husk(&["run", "-d", "--name", name, BUSYBOX, "sh", "-c", script]).ok();
    }

    /// Another program with the installation's variables.
    #[must_use]
    pub fn program(&self, program: &str, words: &[&str]) -> Run<'_> {
        Run::new(self, OsStr::new(program), words)
    }

    /// A husk command on a terminal of its own.
    #[must_use]
    pub fn on_terminal(&self, words: &[&str]) -> Terminal<'_> {
        Terminal::start(self, words)
    }

    /// Loads an image as `name:tag`.
    ///
    /// # Panics
    /// When it cannot be loaded.
    pub fn load(&self, image: &Image, name: &str, tag: &str) {
        let layout = self.path("images").join(name);
        image.write_layout(&layout, tag).expect("an image layout can be written");
        self.husk(&["load", "-q", &format!("oci:{}", layout.display())]).ok();
    }

    /// What `husk inspect` knows of one container or image.
    ///
    /// # Panics
    /// When it knows none.
    #[must_use]
    pub fn inspect(&self, name: &str) -> Value {
        let output = self.husk(&["inspect", name]).ok();
        let all: Value = serde_json::from_slice(&output.stdout).expect("inspect prints JSON");
        all[0].clone()
    }

    /// `State.Status` of a container; `None` when there is no such container.
    #[must_use]
    pub fn state(&self, name: &str) -> Option<String> {
        let format = ["inspect", "--type", "container", "--format", "{{.State.Status}}", name];
        let output = self.husk(&format).output();
        (output.code == 0).then(|| output.out())
    }

    /// Waits until a container is in a state.
    ///
    /// # Panics
    /// When it does not get there.
    pub fn await_state(&self, name: &str, state: &str) {
        let reached = || (self.state(name).as_deref() == Some(state)).then_some(());
        eventually(&format!("{name} is {state}"), reached);
    }

    /// Names of all containers, one a line of `ps`.
    #[must_use]
    pub fn containers(&self) -> Vec<String> {
        let output = self.husk(&["ps", "-a", "--format", "{{.Names}}"]).ok();
        output.out().lines().map(str::to_owned).collect()
    }

    /// Every living VMM of the installation.
    #[must_use]
    pub fn vmms(&self) -> Vec<leftovers::Process> {
        let is_vmm = |process: &leftovers::Process| {
            process.name.starts_with("qemu") || process.command.starts_with("husk-vmm")
        };
        self.processes().into_iter().filter(is_vmm).collect()
    }

    /// Processes of this installation that are not the test's own.
    #[must_use]
    pub fn processes(&self) -> Vec<leftovers::Process> {
        leftovers::processes(self.root())
    }

    /// Checks that nothing runs and nothing half made is left, containers on disk apart. What is
    /// about to go gets a moment.
    ///
    /// # Panics
    /// With what is left.
    pub fn assert_idle(&self) {
        let left = self.left();
        assert!(left.is_empty(), "left behind:\n{}", left.join("\n"));
    }

    /// As [`Bed::assert_idle`], and there is no container either.
    ///
    /// # Panics
    /// With what is left.
    pub fn assert_nothing_left(&self) {
        self.assert_idle();
        let containers = self.containers();
        assert!(containers.is_empty(), "containers left behind: {containers:?}");
    }

    fn left(&self) -> Vec<String> {
        let look = || leftovers::of_idle(self.root(), &self.data(), &self.runtime());
        match within(PATIENCE, || look().is_empty().then_some(())) {
            Some(()) => Vec::new(),
            None => look(),
        }
    }

    /// What containers, their guests and their monitors had to say, newest last.
    #[must_use]
    pub fn logs(&self) -> String {
        let mut text = String::new();
        let folders = fs::read_dir(self.data().join("containers")).into_iter().flatten().flatten();
        for folder in folders.map(|entry| entry.path()) {
            for name in ["status.json", "monitor.log", "console.log"] {
                let Ok(bytes) = fs::read(folder.join(name)) else { continue };
                let tail = bytes.get(bytes.len().saturating_sub(LOG_TAIL)..).unwrap_or_default();
                let path = folder.join(name);
                let tail = String::from_utf8_lossy(tail);
                text.push_str(&format!("--- {}\n{tail}\n", path.display()));
            }
        }
        text
    }
}

impl Default for Bed {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            leftovers::kill_all(self.root());
            return;
        }
        let names = self.containers();
        if !names.is_empty() {
            let words: Vec<&str> =
                ["rm", "-f"].into_iter().chain(names.iter().map(String::as_str)).collect();
            self.husk(&words).ok();
        }
        let left = self.left();
        leftovers::kill_all(self.root());
        assert!(left.is_empty(), "left behind:\n{}", left.join("\n"));
    }
}
