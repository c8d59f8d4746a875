//! Root file systems for the guest, made with the distribution's own tools: what the project writes
//! itself has tests of its own.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

/// Serial of the image that most cases use.
pub const IMAGE: &str = "image";
/// Serial of an image whose links lead out of it.
pub const HOSTILE_IMAGE: &str = "hostile";
/// Serial of an ext4 disk.
pub const DISK: &str = "disk";

pub(super) const BUSYBOX: &str = "/bin/busybox";
const DISK_BYTES: u64 = 32 << 20;
/// Applets that cases use by name.
const APPLETS: [&str; 39] = [
    "sh", "cat", "echo", "id", "ls", "sleep", "true", "hostname", "mount", "umount", "stat", "env",
    "pwd", "ps", "kill", "test", "touch", "readlink", "grep", "head", "dd", "mkdir", "wc",
    "md5sum", "tty", "stty", "ip", "nproc", "seq", "tr", "cut", "sort", "date", "dmesg", "mknod",
    "taskset", "rmdir", "ping", "find",
];

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("run {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

/// What every root of the tests has.
///
/// # Errors
/// When busybox or the probe is not there.
pub fn populate(root: &Path) -> Result<()> {
    for folder in ["bin", "tmp", "var/data", "masked/folder"] {
        fs::create_dir_all(root.join(folder))?;
    }
    fs::copy(BUSYBOX, root.join("bin/busybox")).context("copy busybox (busybox-static)")?;
    for applet in APPLETS {
        symlink("busybox", root.join("bin").join(applet))?;
    }
    fs::copy(crate::guest::init_program("probe"), root.join("bin/probe")).context("copy probe")?;
    fs::write(root.join("masked/file"), "secret\n")?;
    fs::write(root.join("masked/folder/inside"), "secret\n")?;
    for (name, content) in [("broken", "#!/no/such/interpreter\n"), ("garbage", "\x7fELF nonsense")]
    {
        let program = root.join("bin").join(name);
        fs::write(&program, content)?;
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    }
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777))?;
    Ok(())
}

/// An EROFS image of a folder.
///
/// # Errors
/// When mkfs.erofs is not there.
pub fn erofs(root: &Path, image: PathBuf) -> Result<PathBuf> {
    run(Command::new("mkfs.erofs").arg("--all-root").arg(&image).arg(root))?;
    Ok(image)
}

/// busybox, a user database, and something to hide.
///
/// # Errors
/// As [`populate`] and [`erofs`].
pub fn busybox(folder: &Path) -> Result<PathBuf> {
    let root = folder.join("root");
    populate(&root)?;
    fs::create_dir(root.join("etc"))?;
    fs::write(
        root.join("etc/passwd"),
        "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34::/var/data:/bin/sh\n",
    )?;
    fs::write(root.join("etc/group"), "root:x:0:\nweb:x:34:\nlogs:x:50:web\n")?;
    fs::write(root.join("etc/data"), "not a program\n")?;
    erofs(&root, folder.join("image.erofs"))
}

/// Links that lead out, where a careless runtime follows them.
///
/// # Errors
/// As [`populate`] and [`erofs`].
pub fn hostile(folder: &Path) -> Result<PathBuf> {
    let root = folder.join("hostile");
    populate(&root)?;
    symlink("/", root.join("dev"))?;
    symlink("/", root.join("etc"))?;
    symlink("../../../../../../run", root.join("up"))?;
    symlink("/tmp", root.join("proc"))?;
    symlink("/proc/self/attr", root.join("attr"))?;
    erofs(&root, folder.join("hostile.erofs"))
}

/// An empty file system.
///
/// # Errors
/// When mke2fs is not there.
pub fn ext4(folder: &Path) -> Result<PathBuf> {
    let disk = folder.join("disk.ext4");
    fs::File::create(&disk)?.set_len(DISK_BYTES)?;
    run(Command::new("mke2fs").args(["-F", "-q", "-t", "ext4"]).arg(&disk))?;
    Ok(disk)
}

/// Takes away what the VMM has open.
pub fn remove(folder: &Path) {
    for tree in ["root", "hostile"] {
        // What stays is found by `cargo clean`.
        let _ = fs::remove_dir_all(folder.join(tree));
    }
    for file in ["image.erofs", "hostile.erofs", "disk.ext4"] {
        let _ = fs::remove_file(folder.join(file));
    }
}
