//! `mounts` of the runtime-spec: docker's, and what `--tmpfs`, `--mount` and `--shm-size` add.

use serde_json::{Value, json};

use super::SANDBOX_FILES;
use crate::engine::record::{Config, Ipc, TmpfsMount};

/// docker's size of /dev/shm.
pub const DEFAULT_SHM_BYTES: u64 = 64 << 20;

fn mount(destination: &str, kind: &str, source: &str, options: &[&str]) -> Value {
    json!({ "destination": destination, "type": kind, "source": source, "options": options })
}

/// All mounts, in order.
pub fn mounts(config: &Config) -> Vec<Value> {
    let sealed = ["nosuid", "noexec", "nodev"];
    let system: &[&str] = match config.security.privileged {
        true => &["nosuid", "noexec", "nodev"],
        false => &["nosuid", "noexec", "nodev", "ro"],
    };
    let mut mounts = vec![
        mount("/proc", "proc", "proc", &sealed),
        devices(config),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount("/sys", "sysfs", "sysfs", system),
        mount("/sys/fs/cgroup", "cgroup", "cgroup", system),
        mount("/dev/mqueue", "mqueue", "mqueue", &sealed),
    ];
    if config.surroundings.ipc == Ipc::Private {
        mounts.push(shared_memory(config.filesystem.shm_bytes));
    }
    for name in SANDBOX_FILES {
        let source = format!("/run/husk/files/{name}");
        mounts.push(mount(&format!("/etc/{name}"), "bind", &source, &["rbind", "rprivate"]));
    }
    for (destination, options) in &config.filesystem.tmpfs {
        let mut all = sealed.to_vec();
        all.extend(options.iter().map(String::as_str));
        mounts.push(mount(destination, "tmpfs", "tmpfs", &all));
    }
    mounts.extend(config.filesystem.tmpfs_mounts.iter().map(tmpfs));
    mounts
}

/// A privileged container has every node that the guest's kernel makes; what it adds or takes away
/// there is the guest's, which is its own.
fn devices(config: &Config) -> Value {
    if config.security.privileged {
        return mount("/dev", "devtmpfs", "devtmpfs", &["nosuid", "strictatime"]);
    }
    mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"])
}

fn shared_memory(bytes: u64) -> Value {
    let bytes = if bytes == 0 { DEFAULT_SHM_BYTES } else { bytes };
    let size = format!("size={}", in_kib(bytes));
    mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", &size])
}

fn in_kib(bytes: u64) -> String {
    if bytes.is_multiple_of(1024) { format!("{}k", bytes / 1024) } else { bytes.to_string() }
}

fn tmpfs(wish: &TmpfsMount) -> Value {
    let mut options: Vec<String> = ["nosuid", "noexec", "nodev"].map(str::to_owned).to_vec();
    if wish.read_only {
        options.push("ro".to_owned());
    }
    if wish.size_bytes > 0 {
        options.push(format!("size={}", wish.size_bytes));
    }
    if wish.mode > 0 {
        options.push(format!("mode={:o}", wish.mode));
    }
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    mount(&wish.target, "tmpfs", "tmpfs", &options)
}
