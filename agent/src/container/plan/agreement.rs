//! What the rest of a spec must leave alone, or have, for the namespaces in its list.

use oci_spec::runtime::{Linux, Spec};

use super::{
    ids::IdMaps,
    mounts::{MountKind, MountPlan},
    namespaces::{Kind, NamespaceList},
    short,
};
use crate::spec::{SpecError, has, says};

/// A mount namespace that is joined has its root, mounts and devices already: no field of the spec
/// can change them under those who are in it.
///
/// # Errors
/// [`SpecError::Invalid`] with the first field that would.
pub fn leave_joined_mounts_alone(
    spec: &Spec,
    linux: &Linux,
    list: &NamespaceList,
) -> Result<(), SpecError> {
    if list.is_new(Kind::Mount) {
        return Ok(());
    }
    let read_only = spec.root().as_ref().and_then(oci_spec::runtime::Root::readonly);
    let fields = [
        ("mounts", has(spec.mounts())),
        ("root.readonly", read_only.unwrap_or_default()),
        ("linux.devices", has(linux.devices())),
        ("linux.maskedPaths", has(linux.masked_paths())),
        ("linux.readonlyPaths", has(linux.readonly_paths())),
        ("linux.rootfsPropagation", says(linux.rootfs_propagation())),
    ];
    match fields.iter().find(|(_, present)| *present) {
        Some((field, _)) => {
            Err(SpecError::invalid(*field, "cannot be set in a mount namespace that is joined"))
        }
        None => Ok(()),
    }
}

/// In a user namespace the kernel mounts only what belongs to that namespace's own others, and only
/// for ids that are in its maps.
///
/// # Errors
/// [`SpecError::Invalid`] with the mount, where the kernel would say no more than EPERM or EINVAL.
pub fn mounts_belong_to_the_user_namespace(
    mounts: &[MountPlan],
    list: &NamespaceList,
    ids: Option<&IdMaps>,
) -> Result<(), SpecError> {
    if !list.namespaces.user {
        return Ok(());
    }
    mounts.iter().try_for_each(|mount| {
        let field = format!("mounts[{}]", short(&mount.destination.to_string_lossy()));
        let (kind, has) = match &mount.kind {
            MountKind::Kernel { fstype } if fstype == "proc" => (Kind::Pid, list.namespaces.pid),
            MountKind::Kernel { .. } => (Kind::Network, list.namespaces.network),
            MountKind::Filesystem { fstype, .. } if fstype == "mqueue" => {
                (Kind::Ipc, list.namespaces.ipc)
            }
            _ => return owners_are_mapped(&field, mount, ids),
        };
        if has {
            return Ok(());
        }
        let reason =
            format!("needs a {} namespace that belongs to the user namespace", kind.name());
        Err(SpecError::invalid(field, reason))
    })
}

fn owners_are_mapped(
    field: &str,
    mount: &MountPlan,
    ids: Option<&IdMaps>,
) -> Result<(), SpecError> {
    let Some(ids) = ids else { return Ok(()) };
    for (key, value) in &mount.options.data {
        let Some(id) = value.as_deref().and_then(|value| value.parse().ok()) else { continue };
        let (mapped, map) = match key.as_str() {
            "uid" => (ids.has_user(id), "linux.uidMappings"),
            "gid" => (ids.has_group(id), "linux.gidMappings"),
            _ => continue,
        };
        if !mapped {
            let reason = format!("{key}={id} is not in {map}");
            return Err(SpecError::invalid(format!("{field}.options"), reason));
        }
    }
    Ok(())
}
