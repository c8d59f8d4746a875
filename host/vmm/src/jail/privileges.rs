//! User, groups and capabilities: nobody, none, none. credentials(7), capabilities(7).

use caps::{CapSet, CapsHashSet};
use nix::unistd::{Gid, Uid, geteuid, getpid, setgroups, setresgid, setresuid};

use super::namespaces::Namespaces;
use super::{JailError, Layer, call};

/// A VM of root's becomes the user of this number plus its process id, so that no two VMs share a
/// user at the same time: none may send signals to another or use up its limits. 0x7000_0000 is
/// above all that hosts give to people, services and containers; process ids have 22 bits at most.
const FIRST_USER: u32 = 0x7000_0000;
/// Where that number does not exist, in a user namespace: the user who owns nothing.
const NOBODY: u32 = 65534;

/// Gives up everything: first what needs privileges, then these.
pub fn drop_all(namespaces: &Namespaces) -> Result<(Layer, Layer), JailError> {
    let bounding = caps::clear(None, CapSet::Bounding);
    let user = match namespaces {
        // Nobody at all: the namespace has no users.
        Namespaces::OwnAndUser => Layer::Holds,
        Namespaces::Own | Namespaces::Host(_) if !geteuid().is_root() => Layer::Holds,
        Namespaces::Own | Namespaces::Host(_) => leave_root(),
    };
    for set in [CapSet::Ambient, CapSet::Inheritable, CapSet::Effective, CapSet::Permitted] {
        let cleared = caps::clear(None, set).map_err(std::io::Error::other);
        cleared.map_err(call("drop capabilities"))?;
    }
    Ok((user, capabilities(bounding.err())))
}

/// Whether all sets are empty. The bounding one can only be emptied by the privileged; where it is
/// not, `no_new_privs` stands before it.
fn capabilities(refusal: Option<caps::errors::CapsError>) -> Layer {
    let left = |set| caps::read(None, set).unwrap_or_else(|_| caps::all());
    let own: CapsHashSet = [CapSet::Permitted, CapSet::Inheritable, CapSet::Ambient]
        .into_iter()
        .flat_map(left)
        .collect();
    if !own.is_empty() {
        return Layer::Missing { reason: format!("{} are left", own.len()) };
    }
    match refusal {
        None => Layer::Holds,
        Some(error) => Layer::Partly { reason: format!("bounding set: {error}") },
    }
}

fn leave_root() -> Layer {
    let own = FIRST_USER.saturating_add(getpid().as_raw().unsigned_abs());
    let become_user = |id: u32| {
        let (user, group) = (Uid::from_raw(id), Gid::from_raw(id));
        setgroups(&[])?;
        setresgid(group, group, group)?;
        setresuid(user, user, user)
    };
    if become_user(own).is_ok() {
        return Layer::Holds;
    }
    match become_user(NOBODY) {
        Ok(()) => Layer::Partly { reason: "shares its user with other VMs".into() },
        Err(error) => Layer::missing("leave root", &error.desc()),
    }
}
