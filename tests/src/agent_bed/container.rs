//! Containers as values: a spec as other engines write it, to be changed by a case.

use husk_protocols::agent::{self, rootfs::Upper};
use serde_json::{Value, json};

use super::{IMAGE, next};

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const CAPABILITIES: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// A container to create.
#[derive(Debug, Clone)]
pub struct Container {
    /// Different for each.
    pub id: String,
    /// config.json.
    pub spec: Value,
    image: &'static str,
    upper: Upper,
    /// Whether it has a root of its own.
    pub(super) rootfs: bool,
}

/// `process` of a spec.
#[must_use]
pub fn process(args: &[&str]) -> Value {
    json!({
        "user": {"uid": 0, "gid": 0},
        "args": args,
        "env": [PATH],
        "cwd": "/",
        "capabilities": {
            "bounding": CAPABILITIES, "effective": CAPABILITIES, "permitted": CAPABILITIES,
        },
    })
}

fn mounts() -> Value {
    json!([
        {"destination": "/proc", "type": "proc", "source": "proc",
         "options": ["nosuid", "noexec", "nodev"]},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
         "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
        {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
         "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
        {"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
         "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
        {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
         "options": ["nosuid", "noexec", "nodev"]},
        {"destination": "/sys", "type": "sysfs", "source": "sysfs",
         "options": ["nosuid", "noexec", "nodev", "ro"]},
        {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
         "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]},
    ])
}

impl Container {
    /// One that executes a program.
    #[must_use]
    pub fn new(args: &[&str]) -> Self {
        let namespaces: Vec<Value> = ["pid", "mount", "uts", "ipc", "network", "cgroup"]
            .map(|kind| json!({"type": kind}))
            .into();
        let spec = json!({
            "ociVersion": "1.2.0",
            "root": {"path": "rootfs"},
            "hostname": "inside",
            "process": process(args),
            "mounts": mounts(),
            "linux": {
                "namespaces": namespaces,
                "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/scsi", "/sys/firmware"],
                "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys"],
            },
        });
        let upper = Upper::TmpfsBytes(0);
        Self { id: format!("case-{}", next()), spec, image: IMAGE, upper, rootfs: true }
    }

    /// One that executes a script.
    #[must_use]
    pub fn sh(script: &str) -> Self {
        Self::new(&["sh", "-c", script])
    }

    /// Changes a field of the spec, given as a JSON pointer whose parent is there.
    ///
    /// # Panics
    /// When the parent is not there: the case is wrong.
    #[must_use]
    pub fn with(mut self, pointer: &str, value: Value) -> Self {
        let (parent, name) = pointer.rsplit_once('/').expect("a pointer has a slash");
        self.spec.pointer_mut(parent).expect("the parent is there")[name] = value;
        self
    }

    /// Adds a mount.
    ///
    /// # Panics
    /// When the spec has no list of mounts: the case is wrong.
    #[must_use]
    pub fn mount(mut self, mount: Value) -> Self {
        self.spec["mounts"].as_array_mut().expect("the spec has mounts").push(mount);
        self
    }

    /// With another image.
    #[must_use]
    pub fn image(self, serial: &'static str) -> Self {
        Self { image: serial, ..self }
    }

    /// With a disk as its writable layer.
    #[must_use]
    pub fn disk(self, serial: &str) -> Self {
        Self { upper: Upper::DiskSerial(serial.to_owned()), ..self }
    }

    /// With a writable layer of so many bytes of memory.
    #[must_use]
    pub fn tmpfs(self, bytes: u64) -> Self {
        Self { upper: Upper::TmpfsBytes(bytes), ..self }
    }

    /// With a terminal.
    #[must_use]
    pub fn terminal(self) -> Self {
        self.with("/process/terminal", json!(true))
    }

    /// Whether it has one.
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        self.spec["process"]["terminal"] == json!(true)
    }

    /// As it crosses the wire.
    #[must_use]
    pub fn request(&self, streams: agent::Streams) -> agent::CreateRequest {
        let rootfs = agent::Rootfs {
            image_serial: self.image.to_owned(),
            upper: Some(self.upper.clone()),
            ..Default::default()
        };
        agent::CreateRequest {
            id: self.id.clone(),
            spec: self.spec.to_string().into_bytes(),
            rootfs: self.rootfs.then_some(rootfs).into(),
            streams: Some(streams).into(),
            ..Default::default()
        }
    }
}
