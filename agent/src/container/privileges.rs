//! From root with everything to the user with what the spec gives: capabilities(7), credentials(7).

use nix::{
    errno::Errno,
    sys::prctl::{set_keepcaps, set_no_new_privs},
    unistd::{Gid, Uid, setgroups, setresgid, setresuid},
};

use super::{StageError, identity::Identity, plan::CapabilitySets};
use crate::sys;

/// linux/capability.h.
const CAP_SYS_ADMIN: u64 = 1 << 21;

/// What is left to a process.
#[derive(Debug)]
pub struct Privileges {
    /// Capabilities.
    pub sets: CapabilitySets,
    /// Set-uid programs and file capabilities give nothing.
    pub no_new: bool,
    /// The caller will load a filter before its exec.
    pub filters: bool,
}

/// Changes user, groups and all five capability sets of the calling thread.
///
/// One who does not give new privileges up needs `CAP_SYS_ADMIN` to load a filter, and keeps it
/// until the exec. It ends there: execve(2) makes the permitted and effective sets anew, out of the
/// bounding, inheritable and ambient ones and those of the file (capabilities(7)), which do not
/// have it. So nothing is left to be done between the filter and the exec that the filter would
/// have to allow.
///
/// # Errors
/// [`StageError::Step`].
pub fn drop_to(identity: &Identity, privileges: &Privileges) -> Result<(), StageError> {
    let Privileges { sets, no_new, filters } = privileges;
    let step = StageError::step;
    limit_bounding(sets.bounding).map_err(step("limit capabilities"))?;
    // Or the change of user takes all of them away.
    set_keepcaps(true).map_err(step("keep capabilities"))?;
    let groups: Vec<Gid> = identity.additional_gids.iter().copied().map(Gid::from_raw).collect();
    let (uid, gid) = (Uid::from_raw(identity.uid), Gid::from_raw(identity.gid));
    match setgroups(&groups) {
        // A joined user namespace may forbid it: there are none to take away.
        Err(Errno::EPERM) if groups.is_empty() => {}
        result => result.map_err(step("set additional groups"))?,
    }
    setresgid(gid, gid, gid).map_err(step("set the group"))?;
    setresuid(uid, uid, uid).map_err(step("set the user"))?;
    set_keepcaps(false).map_err(step("keep capabilities"))?;
    // The kernel adds to the inheritable set only what is permitted or bounding now, so the
    // permitted one must not shrink before: one call does all three.
    let kept = if *filters && !no_new { CAP_SYS_ADMIN } else { 0 };
    sys::capability::set(sets.effective | kept, sets.permitted | kept, sets.inheritable)
        .map_err(step("set capabilities"))?;
    for capability in each(sets.ambient) {
        sys::capability::raise_ambient(capability).map_err(step("set ambient capabilities"))?;
    }
    if *no_new {
        set_no_new_privs().map_err(step("set no_new_privs"))?;
    }
    Ok(())
}

fn limit_bounding(keep: u64) -> Result<(), Errno> {
    for capability in each(!keep) {
        match sys::capability::drop_bounding(capability) {
            Ok(()) => {}
            // The first one that this kernel does not know: no further one is.
            Err(Errno::EINVAL) => break,
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// The number of every capability in a set, in order.
fn each(set: u64) -> impl Iterator<Item = u32> {
    (0..u64::BITS).filter(move |number| set >> number & 1 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_lists_what_is_in_the_set() {
        assert_eq!(each(1 | 1 << 21).collect::<Vec<_>>(), [0, 21]);
        assert_eq!(each(u64::MAX).count(), 64);
    }
}
