//! What a container's spec asks of the second stage, validated: inside, every value can be carried
//! out or fails for reasons of the guest alone. Pure; the only reader of the spec's container
//! parts. Resources are read by `cgroup`.

mod agreement;
mod devices;
mod hooks;
mod ids;
mod inherited;
mod mounts;
mod namespaces;
mod process;
mod scheduling;
mod state;
mod sysctl;
mod time;
mod words;

pub use devices::{DevicePlan, DeviceType};
pub use hooks::{HookPlan, HookPlans, StageHooks};
pub use ids::IdMaps;
pub use inherited::Inherited;
pub use mounts::{IdMap, MountKind, MountPlan};
use namespaces::NamespaceList;
pub use namespaces::{Join, Kind, Namespaces, Place};
pub use process::{CapabilitySets, Labels, Limit, ProcessPlan, UserPlan};
pub use scheduling::{Cpus, Scheduling};
pub use state::{State, StatePlan, Status};

use std::path::PathBuf;

use nix::sched::CloneFlags;
use oci_spec::runtime::{Linux, Process, Spec};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    mount::Propagation,
    spec::{SpecError, refuse, says},
    sys::mount::Depth,
};

/// The first process of a container, and everything around it.
#[derive(Debug, Serialize, Deserialize)]
pub struct InitPlan {
    /// Those that are not the guest's.
    pub namespaces: Namespaces,
    /// Those of them that are not new.
    pub joined: Vec<Kind>,
    /// Where those are. For the agent alone.
    #[serde(skip)]
    pub joins: Vec<Join>,
    /// The ids of a new user namespace. For the agent alone.
    #[serde(skip)]
    pub ids: Option<IdMaps>,
    /// For `/proc/self/timens_offsets`, a line each.
    pub time_offsets: Vec<String>,
    /// Host name in its uts namespace.
    pub hostname: Option<String>,
    /// NIS domain name in its uts namespace.
    pub domainname: Option<String>,
    /// The root's own attributes.
    pub root: RootPlan,
    /// In the order of the spec.
    pub mounts: Vec<MountPlan>,
    /// Beyond the default ones.
    pub devices: Vec<DevicePlan>,
    /// Made unreadable.
    pub masked_paths: Vec<PathBuf>,
    /// Made unwritable.
    pub readonly_paths: Vec<PathBuf>,
    /// Path below /proc/sys, and value.
    pub sysctl: Vec<(PathBuf, String)>,
    /// The user's process.
    pub process: ProcessPlan,
    /// What needs the container's id too is added by who knows it.
    pub hooks: Option<StageHooks>,
}

/// `root.readonly` and `linux.rootfsPropagation`.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct RootPlan {
    /// Nothing can be written outside of the mounts.
    pub read_only: bool,
    /// How mounts below the root travel; `true` for all below.
    pub propagation: Option<(Propagation, bool)>,
}

/// Reads `config.json`.
///
/// # Errors
/// [`SpecError::Json`], or a version that is not 1.x.
pub fn parse_spec(json: &[u8]) -> Result<Spec, SpecError> {
    let spec: Spec = match serde_json::from_slice(json) {
        Ok(spec) => spec,
        Err(error) => read_mended(&words::mend_spec(json, &error)?)?,
    };
    if spec.version().split('.').next() == Some("1") {
        Ok(spec)
    } else {
        Err(SpecError::invalid(
            "ociVersion",
            format!("{:?} is not 1.x", spec.version().chars().take(32).collect::<String>()),
        ))
    }
}

/// Reads `process` of a spec, for an exec.
///
/// # Errors
/// [`SpecError`].
pub fn parse_process(json: &[u8]) -> Result<ProcessPlan, SpecError> {
    let process: Process = match serde_json::from_slice(json) {
        Ok(process) => process,
        Err(error) => read_mended(&words::mend_process(json, &error)?)?,
    };
    ProcessPlan::read(&process)
}

fn read_mended<T: DeserializeOwned>(json: &[u8]) -> Result<T, SpecError> {
    serde_json::from_slice(json).map_err(|error| SpecError::Json(error.to_string()))
}

impl InitPlan {
    /// Takes from a spec what the second stage does.
    ///
    /// # Errors
    /// [`SpecError`] for the first field that cannot be honoured.
    pub fn read(spec: &Spec) -> Result<Self, SpecError> {
        refuse_other_platforms(spec)?;
        let root = spec.root().as_ref().ok_or_else(|| SpecError::invalid("root", "is missing"))?;
        let process =
            spec.process().as_ref().ok_or_else(|| SpecError::invalid("process", "is missing"))?;
        let linux =
            spec.linux().as_ref().ok_or_else(|| SpecError::invalid("linux", "is missing"))?;
        refuse_linux(linux)?;
        let list = NamespaceList::read(linux.namespaces().as_deref().unwrap_or_default())?;
        let namespaces = list.namespaces;
        let ids = IdMaps::read(linux, &list)?;
        agreement::leave_joined_mounts_alone(spec, linux, &list)?;
        let mounts = mounts::read(spec.mounts().as_deref().unwrap_or_default())?;
        agreement::mounts_belong_to_the_user_namespace(&mounts, &list, ids.as_ref())?;
        let own_uts = |field: &str, name: &Option<String>| {
            let name = name.clone().filter(|name| !name.is_empty());
            if name.is_some() && !namespaces.uts {
                let reason = "needs a uts namespace, new or joined";
                return Err(SpecError::invalid(field, reason));
            }
            Ok(name)
        };
        Ok(Self {
            hostname: own_uts("hostname", spec.hostname())?,
            domainname: own_uts("domainname", spec.domainname())?,
            root: RootPlan {
                read_only: root.readonly().unwrap_or_default(),
                propagation: root_propagation(linux)?,
            },
            mounts,
            devices: devices::read(linux.devices().as_deref().unwrap_or_default())?,
            masked_paths: paths("linux.maskedPaths", linux.masked_paths())?,
            readonly_paths: paths("linux.readonlyPaths", linux.readonly_paths())?,
            sysctl: match linux.sysctl() {
                Some(values) => sysctl::read(values, &namespaces)?,
                None => Vec::new(),
            },
            process: ProcessPlan::read(process)?,
            hooks: None,
            time_offsets: time::read(linux.time_offsets().as_ref(), &list)?,
            joined: list.joined(),
            joins: list.joins,
            namespaces,
            ids,
        })
    }

    /// Whether a namespace is made for the container.
    #[must_use]
    pub fn is_new(&self, kind: Kind) -> bool {
        let listed = match kind {
            Kind::Pid => self.namespaces.pid,
            kind => self.namespaces.flags().contains(kind.flag()),
        };
        listed && !self.joined.contains(&kind)
    }

    /// Whether it has a cgroup namespace of its own and can write to what it shows.
    #[must_use]
    pub fn writes_its_cgroup(&self) -> bool {
        let writable =
            |mount: &MountPlan| mount.kind == MountKind::Cgroup && !mount.options.is_read_only();
        self.is_new(Kind::Cgroup) && self.mounts.iter().any(writable)
    }

    /// Flags for unshare(2): the new ones that a process makes after its birth. In a pid or user
    /// namespace it is born.
    #[must_use]
    pub fn unshared(&self) -> CloneFlags {
        let born = [Kind::User.flag()];
        let others = self.joined.iter().map(|kind| kind.flag()).chain(born);
        others.fold(self.namespaces.flags(), |flags, other| flags - other)
    }

    /// The joined ones that a process enters after its birth, in this order: it loses its rights to
    /// others with the user namespace. A new pid namespace belongs to the user namespace that it is
    /// made in, so that there the process is born in both.
    #[must_use]
    pub fn entered(&self) -> Vec<Kind> {
        let later = |kind: &Kind| match kind {
            Kind::User => !self.is_new(Kind::Pid),
            Kind::Mount | Kind::Time => true,
            _ => false,
        };
        let in_order = [Kind::Time, Kind::Mount, Kind::User];
        in_order.into_iter().filter(|kind| self.joined.contains(kind)).filter(later).collect()
    }
}

fn refuse_other_platforms(spec: &Spec) -> Result<(), SpecError> {
    refuse(
        "",
        &[
            ("solaris", spec.solaris().is_some()),
            ("windows", spec.windows().is_some()),
            ("vm", spec.vm().is_some()),
            ("zos", spec.zos().is_some()),
        ],
    )
}

/// Named with the reason: no setting of the guest changes it.
const INTEL_RDT: &str = "intelRdt, hardware that the guest does not have (resctrl),";

fn refuse_linux(linux: &Linux) -> Result<(), SpecError> {
    if says(linux.mount_label()) {
        let (field, option) = ("linux.mountLabel", "CONFIG_SECURITY_SELINUX");
        return Err(SpecError::Kernel { field, option });
    }
    refuse(
        "linux.",
        &[
            (INTEL_RDT, linux.intel_rdt().is_some()),
            ("memoryPolicy", linux.memory_policy().is_some()),
            ("netDevices", linux.net_devices().as_ref().is_some_and(|map| !map.is_empty())),
        ],
    )
}

fn root_propagation(linux: &Linux) -> Result<Option<(Propagation, bool)>, SpecError> {
    match linux.rootfs_propagation().as_deref() {
        None | Some("") => Ok(None),
        Some(text) => match Propagation::parse(text) {
            Some((propagation, depth)) => Ok(Some((propagation, depth == Depth::Tree))),
            None => {
                let reason = format!("{:?} is no propagation", short(text));
                Err(SpecError::invalid("linux.rootfsPropagation", reason))
            }
        },
    }
}

/// Enough of a text to recognise it in a message.
fn short(text: &str) -> String {
    text.chars().take(80).collect()
}

fn paths(field: &str, list: &Option<Vec<String>>) -> Result<Vec<PathBuf>, SpecError> {
    list.iter().flatten().map(|path| absolute(field, PathBuf::from(path))).collect()
}

/// A path that names one place: absolute, without `..` and zero bytes.
fn absolute(field: &str, path: PathBuf) -> Result<PathBuf, SpecError> {
    use std::path::Component;
    let shown = || short(&path.to_string_lossy());
    if !path.is_absolute() {
        return Err(SpecError::invalid(field, format!("{:?} is not absolute", shown())));
    }
    if path.components().any(|part| part == Component::ParentDir) {
        return Err(SpecError::invalid(field, format!("{:?} has a .. in it", shown())));
    }
    no_zero(field, path.to_str().unwrap_or_default())?;
    Ok(path)
}

/// The kernel's strings end at the first zero byte.
fn no_zero(field: &str, text: &str) -> Result<(), SpecError> {
    if text.contains('\0') {
        return Err(SpecError::invalid(field, "has a zero byte in it"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn minimal() -> Value {
        json!({
            "ociVersion": "1.2.0",
            "root": {"path": "rootfs"},
            "process": {"user": {"uid": 0, "gid": 0}, "args": ["sh"], "cwd": "/"},
            "linux": {"namespaces": [{"type": "pid"}, {"type": "mount"}]},
        })
    }

    fn read(spec: &Value) -> Result<InitPlan, SpecError> {
        InitPlan::read(&parse_spec(spec.to_string().as_bytes())?)
    }

    fn with(pointer: &str, value: Value) -> Value {
        let mut spec = minimal();
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        spec.pointer_mut(parent).unwrap()[name] = value;
        spec
    }

    #[test]
    fn minimal_spec_is_accepted() {
        let plan = read(&minimal()).unwrap();
        assert_eq!(plan.process.args, ["sh"]);
        assert!(!plan.root.read_only);
    }

    #[test]
    fn what_is_not_done_is_refused_by_its_name() {
        for (pointer, value, field) in [
            ("/linux/netDevices", json!({"eth0": {}}), "linux.netDevices"),
            ("/linux/memoryPolicy", json!({"mode": "MPOL_BIND"}), "linux.memoryPolicy"),
            ("/process/commandLine", json!("x"), "process.commandLine"),
        ] {
            let error = read(&with(pointer, value)).unwrap_err();
            assert_eq!(error, SpecError::unsupported(field));
            assert_eq!(error.kind(), ErrorKind::Unsupported);
        }
    }

    use husk_protocols::error::ErrorKind;

    #[test]
    fn unknown_word_is_refused_with_its_field() {
        for (pointer, value, field) in [
            (
                "/process/capabilities",
                json!({"bounding": ["X_Y"]}),
                "process.capabilities.bounding",
            ),
            ("/linux/personality", json!({"domain": "BSD"}), "linux.personality.domain"),
            ("/linux/seccomp", json!({"defaultAction": "X"}), "linux.seccomp.defaultAction"),
            (
                "/linux/seccomp",
                json!({"defaultAction": "SCMP_ACT_LOG", "architectures": ["SCMP_ARCH_Z80"]}),
                "linux.seccomp.architectures",
            ),
            (
                "/linux/seccomp",
                json!({"defaultAction": "SCMP_ACT_LOG", "syscalls": [
                    {"names": ["read"], "action": "SCMP_ACT_LOG",
                     "args": [{"index": 0, "value": 0, "op": "SCMP_CMP_X"}]}]}),
                "linux.seccomp.syscalls.args.op",
            ),
        ] {
            match read(&with(pointer, value)) {
                Err(SpecError::Invalid { field: named, .. }) => assert_eq!(named, field),
                other => panic!("{field}: {other:?}"),
            }
        }
        let label = read(&with("/linux/mountLabel", json!("x"))).unwrap_err();
        assert!(label.to_string().contains("CONFIG_SECURITY_SELINUX"), "{label}");
    }

    #[test]
    fn hardware_that_the_guest_lacks_is_named() {
        let error = read(&with("/linux/intelRdt", json!({"closID": "x"}))).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().starts_with("linux.intelRdt, hardware"), "{error}");
    }

    #[test]
    fn spec_that_makes_no_sense_is_invalid() {
        let mapping = json!([{"containerID": 0, "hostID": 0, "size": 1}]);
        for (pointer, value, part) in [
            ("/ociVersion", json!("2.0.0"), "ociVersion"),
            ("/root", json!(null), "root"),
            ("/process", json!(null), "process"),
            ("/linux", json!(null), "linux"),
            ("/linux/rootfsPropagation", json!("public"), "rootfsPropagation"),
            ("/linux/maskedPaths", json!(["etc"]), "maskedPaths"),
            ("/linux/readonlyPaths", json!(["/a/../b"]), "readonlyPaths"),
            ("/hostname", json!("web"), "hostname"),
            ("/linux/uidMappings", mapping, "linux.uidMappings"),
            ("/linux/timeOffsets", json!({"boottime": {"secs": 1}}), "linux.timeOffsets"),
        ] {
            let error = read(&with(pointer, value)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{pointer}");
            assert!(error.to_string().contains(part), "{error}");
        }
        assert!(matches!(parse_spec(b"{"), Err(SpecError::Json(_))));
        assert!(matches!(parse_spec(&[0xff; 64]), Err(SpecError::Json(_))));
    }

    #[test]
    fn empty_fields_ask_for_nothing() {
        let mut spec = with("/hooks", json!({"prestart": []}));
        spec["linux"]["seccomp"] = json!(null);
        spec["linux"]["mountLabel"] = json!("");
        spec["linux"]["rootfsPropagation"] = json!("");
        read(&spec).unwrap();
    }

    fn in_user_namespace(mounts: Value, kinds: &[&str]) -> Value {
        let kinds = ["user", "mount"].iter().chain(kinds);
        let namespaces: Vec<Value> = kinds.map(|kind| json!({"type": kind})).collect();
        let mapping = json!([{"containerID": 0, "hostID": 100_000, "size": 10}]);
        let mut spec = with("/linux/namespaces", Value::from(namespaces));
        spec["linux"]["uidMappings"] = mapping.clone();
        spec["linux"]["gidMappings"] = mapping;
        spec["mounts"] = mounts;
        spec
    }

    #[test]
    fn mount_that_does_not_belong_to_the_user_namespace_is_refused() {
        for (fstype, option, kind) in [
            ("proc", "ro", "pid"),
            ("sysfs", "ro", "network"),
            ("mqueue", "ro", "ipc"),
            ("tmpfs", "uid=10", ""),
            ("devpts", "gid=11", ""),
        ] {
            let mount = json!([{"destination": "/x", "type": fstype, "options": [option]}]);
            let mount = if fstype == "proc" {
                json!([{"destination": "/proc", "type": fstype}])
            } else {
                mount
            };
            let error = read(&in_user_namespace(mount.clone(), &[])).unwrap_err().to_string();
            assert!(error.starts_with("mounts[/"), "{error}");
            if !kind.is_empty() {
                assert!(error.contains(&format!("needs a {kind} namespace")), "{error}");
                read(&in_user_namespace(mount, &[kind])).unwrap();
            }
        }
        let mount = json!([{"destination": "/x", "type": "tmpfs", "options": ["uid=9", "gid=0"]}]);
        read(&in_user_namespace(mount, &[])).unwrap();
    }

    #[test]
    fn joined_mount_namespace_is_left_alone() {
        let mut spec = minimal();
        spec["linux"]["namespaces"] =
            json!([{"type": "pid"}, {"type": "mount", "path": "/run/husk/containers/a/ns/mnt"}]);
        let plan = read(&spec).unwrap();
        assert_eq!(plan.entered(), [Kind::Mount]);
        assert!(plan.unshared().is_empty());
        for (pointer, value) in [
            ("/mounts", json!([{"destination": "/x", "type": "tmpfs"}])),
            ("/root", json!({"path": "rootfs", "readonly": true})),
            ("/linux/devices", json!([{"path": "/dev/x", "type": "p"}])),
            ("/linux/maskedPaths", json!(["/x"])),
            ("/linux/readonlyPaths", json!(["/x"])),
            ("/linux/rootfsPropagation", json!("slave")),
        ] {
            let mut spec = spec.clone();
            let (parent, name) = pointer.rsplit_once('/').unwrap();
            spec.pointer_mut(parent).unwrap()[name] = value;
            let error = read(&spec).unwrap_err().to_string();
            assert!(error.contains("mount namespace that is joined"), "{pointer}: {error}");
        }
    }

    #[test]
    fn user_namespace_is_entered_last_or_at_birth() {
        let join = |kind: &str| json!({"type": kind, "path": format!("/proc/7/ns/{kind}")});
        let namespaces = |rest: Vec<Value>| {
            let mut all = vec![join("user"), join("mount"), join("time"), join("ipc")];
            all.extend(rest);
            read(&with("/linux/namespaces", Value::from(all))).unwrap()
        };
        let shared = namespaces(vec![]);
        assert_eq!(shared.entered(), [Kind::Time, Kind::Mount, Kind::User]);
        let own = namespaces(vec![json!({"type": "pid"}), json!({"type": "uts"})]);
        assert_eq!(own.entered(), [Kind::Time, Kind::Mount]);
        assert_eq!(own.unshared(), CloneFlags::CLONE_NEWUTS);
    }

    #[test]
    fn plan_survives_the_way_to_the_second_stage() {
        let plan = read(&with("/linux/maskedPaths", json!(["/proc/kcore"]))).unwrap();
        let bytes = postcard::to_stdvec(&plan).unwrap();
        let again: InitPlan = postcard::from_bytes(&bytes).unwrap();
        assert_eq!(again.masked_paths, [PathBuf::from("/proc/kcore")]);
    }
}
