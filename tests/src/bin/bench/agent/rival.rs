//! runc and crun in the guest: their image, the container they run in, and loops that time them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use husk_tests::agent_bed::{Bed, Container, Stdio, images, process};
use serde_json::{Value, json};

use super::{TRUE, find_program, refused, unconfined};

/// Serial of the rivals' disk.
pub const IMAGE: &str = "rivals";

/// A runtime that is compared with.
pub struct Rival {
    /// Its program.
    pub name: &'static str,
    /// Our time may be this much of its.
    pub limit: f64,
}

/// All of them.
pub const RIVALS: [Rival; 2] =
    [Rival { name: "runc", limit: 0.2 }, Rival { name: "crun", limit: 0.6 }];

/// Folders of bundles: one whose process ends at once, one whose sleeps.
const ONCE: &str = "/bundles/once";
const SLEEPER: &str = "/bundles/sleeper";
/// Both have this root.
const ROOTFS: &str = "/bundles/rootfs";

/// Programs, the libraries they load, and bundles.
pub fn image(folder: &Path) -> Result<PathBuf> {
    let root = folder.join("rivals");
    images::populate(&root)?;
    for rival in &RIVALS {
        let program = find_program(rival.name)?;
        fs::copy(&program, root.join("bin").join(rival.name))?;
        for library in libraries(&program)? {
            let place = root.join(library.strip_prefix("/")?);
            fs::create_dir_all(place.parent().context("a library lies in a folder")?)?;
            // Through links: what is there is the library itself.
            fs::copy(&library, place).with_context(|| library.display().to_string())?;
        }
    }
    images::populate(&root.join(ROOTFS.trim_start_matches('/')))?;
    bundle(&root, ONCE, &[TRUE])?;
    bundle(&root, SLEEPER, &["sleep", "100000"])?;
    images::erofs(&root, folder.join("rivals.erofs"))
}

/// What ldd(1) says.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).output().context("ldd")?;
    ensure!(output.status.success(), "ldd {}: {output:?}", program.display());
    let text = String::from_utf8(output.stdout)?;
    let path =
        |line: &str| line.split_whitespace().find(|word| word.starts_with('/')).map(PathBuf::from);
    Ok(text.lines().filter_map(path).collect())
}

/// The same config.json that our own container has, in a version that Debian's crun knows.
fn bundle(root: &Path, path: &str, args: &[&str]) -> Result<()> {
    let container = Container::new(args)
        .with("/root", json!({"path": ROOTFS}))
        .with("/ociVersion", json!("1.0.2"));
    let folder = root.join(path.trim_start_matches('/'));
    fs::create_dir_all(&folder)?;
    Ok(fs::write(folder.join("config.json"), container.spec.to_string())?)
}

/// All capabilities that the guest's kernel has, without their `CAP_`.
const CAPABILITIES: &str = "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE \
     NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO \
     SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME \
     SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG \
     WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE";

fn privileged(args: &[&str]) -> Value {
    let all: Vec<String> =
        CAPABILITIES.split_whitespace().map(|name| format!("CAP_{name}")).collect();
    let mut process = process(args);
    process["capabilities"] = json!({"bounding": all, "effective": all, "permitted": all});
    process
}

/// The container that rivals run in.
pub struct Arena<'a> {
    bed: &'a Bed,
    id: String,
}

impl<'a> Arena<'a> {
    /// Starts it, and in it a sleeping container of each rival's.
    pub fn open(bed: &'a Bed) -> Result<Self> {
        let namespaces: Vec<Value> = ["pid", "mount"].map(|kind| json!({"type": kind})).into();
        let resources = json!({"devices": [{"allow": true, "access": "rwm"}]});
        let container = Container::new(&[])
            .image(IMAGE)
            .with("/process", privileged(&["sleep", "100000"]))
            .with("/hostname", json!(null))
            .with("/linux", json!({"namespaces": namespaces, "resources": resources}))
            .with("/mounts", mounts());
        // What a rival may not do, it cannot do for its containers.
        let container = unconfined(container);
        bed.block_on(async {
            bed.create(&container, &Stdio::default()).await?;
            bed.start(&container.id).await
        })
        .map_err(refused)?;
        let arena = Self { bed, id: container.id };
        for Rival { name, .. } in &RIVALS {
            let command = format!("{name} --root /run/{name} run -d -b {SLEEPER} sleeper-{name}");
            arena.time(&command, 1)?;
        }
        Ok(arena)
    }

    /// What a run of a container takes.
    pub fn run(&self, rival: &Rival, times: u32) -> Result<Duration> {
        let name = rival.name;
        self.time(&format!("{name} --root /run/{name} run -b {ONCE} once-{name}"), times)
    }

    /// What an exec takes.
    pub fn exec(&self, rival: &Rival, times: u32) -> Result<Duration> {
        let name = rival.name;
        self.time(&format!("{name} --root /run/{name} exec sleeper-{name} {TRUE}"), times)
    }

    /// Runs a command several times over, and tells what one takes by the guest's own clock.
    fn time(&self, command: &str, times: u32) -> Result<Duration> {
        let script = format!(
            "read began rest < /proc/uptime; i=0
             while [ $i -lt {times} ]; do
                 {command} < /dev/null > /dev/null || exit 1
                 i=$((i+1))
             done
             read ended rest < /proc/uptime; echo $began $ended"
        );
        let shell = privileged(&["sh", "-c", &script]);
        let ended = self.bed.block_on(self.bed.run_exec(&self.id, &shell)).map_err(refused)?;
        let clock: Vec<f64> =
            ended.stdout.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        let (0, [began, end]) = (ended.code, clock.as_slice()) else {
            bail!("{command}: {ended:?}");
        };
        Ok(Duration::try_from_secs_f64(end - began)? / times)
    }
}

/// As on a machine without containers: everything writable, and the whole cgroup tree.
fn mounts() -> Value {
    json!([
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]},
        {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
         "options": ["newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
        {"destination": "/sys", "type": "sysfs", "source": "sysfs"},
        {"destination": "/sys/fs/cgroup", "source": "/sys/fs/cgroup", "options": ["rbind"]},
        {"destination": "/run", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]},
        {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["mode=1777"]},
    ])
}
