//! From what the user asked for to `config.json` of the OCI runtime-spec. Pure: reads no file.
//!
//! The defaults are docker's: fourteen capabilities, masked and read-only paths below /proc and
//! /sys, 64 MiB of /dev/shm.

use serde_json::{Value, json};

use super::record::{Config, Process, Resources};

/// Runtime-spec that this husk writes.
const OCI_VERSION: &str = "1.2.0";

/// docker's default set: enough for a root that is root of its container alone.
const DEFAULT_CAPABILITIES: [&str; 14] = [
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

const MASKED_PATHS: [&str; 10] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/scsi",
    "/sys/firmware",
];

const READONLY_PATHS: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Period of the CPU quota, microseconds. docker's.
const CPU_PERIOD_US: u64 = 100_000;

/// Files of the sandbox that are bound over the image's.
const SANDBOX_FILES: [&str; 3] = ["hosts", "hostname", "resolv.conf"];

/// A file that the agent writes before the container starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxFile {
    /// Name below /run/husk/files, and below /etc in the container.
    pub name: &'static str,
    /// What is in it.
    pub content: String,
}

/// `config.json` for a container; `window` as for [`process_spec`].
#[must_use]
pub fn container_spec(config: &Config, window: Option<(u16, u16)>) -> Value {
    let filesystem = &config.filesystem;
    json!({
        "ociVersion": OCI_VERSION,
        "hostname": config.hostname,
        "root": { "path": "rootfs", "readonly": filesystem.read_only },
        "process": process_spec(&config.process, window),
        "mounts": mounts(config),
        "linux": {
            "namespaces": [
                { "type": "pid" }, { "type": "mount" }, { "type": "ipc" },
                { "type": "uts" }, { "type": "network" }, { "type": "cgroup" },
            ],
            "resources": resources(config.resources),
            "maskedPaths": MASKED_PATHS,
            "readonlyPaths": READONLY_PATHS,
        },
    })
}

/// `process` of the runtime-spec. A user is named, and looked up in the container by the agent.
/// `window` is rows and columns of the terminal, where one is known.
#[must_use]
pub fn process_spec(process: &Process, window: Option<(u16, u16)>) -> Value {
    let mut spec = json!({
        "terminal": process.terminal,
        "user": { "uid": 0, "gid": 0 },
        "args": process.args,
        "env": process.env,
        "cwd": process.cwd,
        "capabilities": {
            "bounding": DEFAULT_CAPABILITIES,
            "effective": DEFAULT_CAPABILITIES,
            "permitted": DEFAULT_CAPABILITIES,
        },
    });
    if !process.user.is_empty() {
        spec["user"]["username"] = json!(process.user);
    }
    if let (true, Some((rows, columns))) = (process.terminal, window) {
        spec["consoleSize"] = json!({ "height": rows, "width": columns });
    }
    spec
}

fn mount(destination: &str, kind: &str, source: &str, options: &[&str]) -> Value {
    json!({ "destination": destination, "type": kind, "source": source, "options": options })
}

fn mounts(config: &Config) -> Vec<Value> {
    let sealed = ["nosuid", "noexec", "nodev"];
    let mut mounts = vec![
        mount("/proc", "proc", "proc", &sealed),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "ro"]),
        mount("/dev/mqueue", "mqueue", "mqueue", &sealed),
        mount(
            "/dev/shm",
            "tmpfs",
            "shm",
            &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"],
        ),
    ];
    for name in SANDBOX_FILES {
        let source = format!("/run/husk/files/{name}");
        mounts.push(mount(&format!("/etc/{name}"), "bind", &source, &["rbind", "rprivate"]));
    }
    for (destination, options) in &config.filesystem.tmpfs {
        let mut all = vec!["nosuid", "nodev", "noexec"];
        all.extend(options.iter().map(String::as_str));
        mounts.push(mount(destination, "tmpfs", "tmpfs", &all));
    }
    mounts
}

fn resources(resources: Resources) -> Value {
    let mut spec = json!({});
    if resources.memory_bytes > 0 {
        // As docker: as much swap again, which a guest without swap turns into none.
        spec["memory"] = json!({ "limit": resources.memory_bytes });
    }
    if resources.milli_cpus > 0 {
        let quota = resources.milli_cpus * CPU_PERIOD_US / 1000;
        spec["cpu"] = json!({ "quota": quota, "period": CPU_PERIOD_US });
    }
    spec
}

/// The sandbox's files. There is no network beyond loopback, so there is no name server to name.
#[must_use]
pub fn sandbox_files(config: &Config) -> Vec<SandboxFile> {
    let hostname = &config.hostname;
    let hosts = format!(
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::\tip6-localnet\nff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\n\
         ff02::2\tip6-allrouters\n127.0.1.1\t{hostname}\n"
    );
    vec![
        SandboxFile { name: "hosts", content: hosts },
        SandboxFile { name: "hostname", content: format!("{hostname}\n") },
        SandboxFile { name: "resolv.conf", content: String::new() },
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use jiff::Timestamp;
    use oci_spec::runtime::Spec;

    use super::super::record::{Filesystem, ImageUse};
    use super::*;

    fn config() -> Config {
        Config {
            id: "a".repeat(64).parse().unwrap(),
            name: "web".to_owned(),
            created: Timestamp::UNIX_EPOCH,
            image: ImageUse { reference: "x".into(), id: "y".into(), disk: "/z".into() },
            process: Process {
                args: vec!["sh".into()],
                env: vec!["PATH=/bin".into()],
                user: String::new(),
                cwd: "/".into(),
                terminal: false,
                stdin_open: false,
                stdin_once: false,
                stop_signal: 15,
            },
            resources: Resources { memory_bytes: 64 << 20, milli_cpus: 1500 },
            filesystem: Filesystem {
                read_only: true,
                tmpfs: BTreeMap::from([("/scratch".to_owned(), vec!["size=1m".to_owned()])]),
            },
            hostname: "web-1".into(),
            auto_remove: false,
            hypervisor: "auto".into(),
        }
    }

    #[test]
    fn spec_is_one_that_the_oci_types_understand() {
        let spec: Spec = serde_json::from_value(container_spec(&config(), None)).unwrap();
        let linux = spec.linux().as_ref().unwrap();
        let cpu = linux.resources().as_ref().unwrap().cpu().as_ref().unwrap();
        assert_eq!((cpu.quota(), cpu.period()), (Some(150_000), Some(100_000)));
        assert_eq!(spec.root().as_ref().unwrap().readonly(), Some(true));
        let scratch =
            spec.mounts().as_ref().unwrap().iter().find(|m| m.destination().ends_with("scratch"));
        assert!(scratch.unwrap().options().as_ref().unwrap().contains(&"size=1m".to_owned()));
    }

    #[test]
    fn limits_that_were_not_asked_for_are_absent() {
        let mut config = config();
        config.resources = Resources::default();
        assert_eq!(container_spec(&config, None)["linux"]["resources"], json!({}));
    }
}
