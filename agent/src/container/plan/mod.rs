//! What a container's spec asks of the second stage, validated: inside, every value can be carried
//! out or fails for reasons of the guest alone. Pure; the only reader of the spec's container parts.
//! Resources are read by `cgroup`.

mod devices;
mod hooks;
mod inherited;
mod mounts;
mod namespaces;
mod process;
mod scheduling;
mod sysctl;
mod words;

pub use devices::{DevicePlan, DeviceType};
pub use hooks::{HookPlan, HookPlans, StageHooks, StatePlan, Status};
pub use inherited::Inherited;
pub use mounts::{IdMap, MountKind, MountPlan};
pub use namespaces::Namespaces;
pub use process::{CapabilitySets, Labels, ProcessPlan, UserPlan};
pub use scheduling::{Cpus, Scheduling};

use std::path::PathBuf;

use oci_spec::runtime::{Linux, Process, Spec};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    mount::Propagation,
    spec::{SpecError, has, refuse, says},
    sys::mount::Depth,
};

/// The first process of a container, and everything around it.
#[derive(Debug, Serialize, Deserialize)]
pub struct InitPlan {
    /// Those the container has to itself.
    pub namespaces: Namespaces,
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
        let namespaces = Namespaces::read(linux.namespaces().as_deref().unwrap_or_default())?;
        let own_uts = |field: &str, name: &Option<String>| {
            let name = name.clone().filter(|name| !name.is_empty());
            if name.is_some() && !namespaces.uts {
                let reason = "needs a uts namespace of the container's own";
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
            mounts: mounts::read(spec.mounts().as_deref().unwrap_or_default())?,
            devices: devices::read(linux.devices().as_deref().unwrap_or_default())?,
            masked_paths: paths("linux.maskedPaths", linux.masked_paths())?,
            readonly_paths: paths("linux.readonlyPaths", linux.readonly_paths())?,
            sysctl: match linux.sysctl() {
                Some(values) => sysctl::read(values, &namespaces)?,
                None => Vec::new(),
            },
            process: ProcessPlan::read(process)?,
            hooks: None,
            namespaces,
        })
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
            ("uidMappings", has(linux.uid_mappings())),
            ("gidMappings", has(linux.gid_mappings())),
            (INTEL_RDT, linux.intel_rdt().is_some()),
            ("memoryPolicy", linux.memory_policy().is_some()),
            ("timeOffsets", linux.time_offsets().as_ref().is_some_and(|map| !map.is_empty())),
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
        let mapping = json!([{"containerID": 0, "hostID": 0, "size": 1}]);
        for (pointer, value, field) in [
            ("/linux/uidMappings", mapping, "linux.uidMappings"),
            ("/linux/netDevices", json!({"eth0": {}}), "linux.netDevices"),
            ("/linux/memoryPolicy", json!({"mode": "MPOL_BIND"}), "linux.memoryPolicy"),
            ("/linux/timeOffsets", json!({"boottime": {"secs": 1}}), "linux.timeOffsets"),
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
        for (pointer, value, part) in [
            ("/ociVersion", json!("2.0.0"), "ociVersion"),
            ("/root", json!(null), "root"),
            ("/process", json!(null), "process"),
            ("/linux", json!(null), "linux"),
            ("/linux/rootfsPropagation", json!("public"), "rootfsPropagation"),
            ("/linux/maskedPaths", json!(["etc"]), "maskedPaths"),
            ("/linux/readonlyPaths", json!(["/a/../b"]), "readonlyPaths"),
            ("/hostname", json!("web"), "hostname"),
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

    #[test]
    fn plan_survives_the_way_to_the_second_stage() {
        let plan = read(&with("/linux/maskedPaths", json!(["/proc/kcore"]))).unwrap();
        let bytes = postcard::to_stdvec(&plan).unwrap();
        let again: InitPlan = postcard::from_bytes(&bytes).unwrap();
        assert_eq!(again.masked_paths, [PathBuf::from("/proc/kcore")]);
    }
}
