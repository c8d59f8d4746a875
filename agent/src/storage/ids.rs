//! The layers of a root whose container has a user namespace: on the disks its root's files are
//! owned by 0, and so they are shared with containers that have none.

use std::os::fd::{AsFd, OwnedFd};

use super::StorageError;
use crate::{
    mount::{self, step},
    sys::{
        mount::Depth,
        user_namespace::{self, Mapping, fits},
    },
};

/// The maps of a container's user namespace.
#[derive(Debug, Clone)]
pub struct LayerIds {
    /// Users.
    pub uid: Vec<Mapping>,
    /// Groups.
    pub gid: Vec<Mapping>,
}

/// What layers are mapped by.
#[derive(Debug)]
pub struct LayerMap(OwnedFd);

impl LayerIds {
    /// Makes the map.
    ///
    /// # Errors
    /// [`StorageError::Mount`].
    pub fn map(&self) -> Result<LayerMap, StorageError> {
        user_namespace::make(&with_root(&self.uid), &with_root(&self.gid))
            .map(LayerMap)
            .map_err(step("make a user namespace for the layers"))
            .map_err(super::mounting("the layers"))
    }
}

impl LayerMap {
    /// Maps the ids of a mount that is not attached yet.
    ///
    /// # Errors
    /// [`StorageError::Mount`].
    pub fn apply(&self, what: &'static str, layer: &OwnedFd) -> Result<(), StorageError> {
        mount::map_ids(layer, self.0.as_fd(), Depth::One).map_err(super::mounting(what))
    }
}

/// The overlay's own files are made by the guest's root, who must be somebody on the disk: the
/// highest id that the container does not use.
fn with_root(map: &[Mapping]) -> Vec<Mapping> {
    let mut all = map.to_vec();
    let has_root = map.iter().any(|one| one.outside == 0);
    if has_root {
        return all;
    }
    let mut ends: Vec<(u32, u32)> =
        map.iter().map(|one| (one.inside.saturating_add(one.size), one.inside)).collect();
    ends.sort_unstable();
    // (u32)-1 is no id.
    let mut spare = u32::MAX - 1;
    while let Some((end, first)) = ends.pop() {
        if end <= spare {
            break;
        }
        // Not all ids can be in use, since one outside, 0, is not.
        spare = first.saturating_sub(1);
    }
    all.push(Mapping { inside: spare, outside: 0, size: 1 });
    // Without it the image can be mapped all the same, which needs nobody to write.
    if fits(&all) { all } else { map.to_vec() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spare(map: &[(u32, u32, u32)]) -> Option<u32> {
        let map: Vec<_> =
            map.iter().map(|&(inside, outside, size)| Mapping { inside, outside, size }).collect();
        with_root(&map).get(map.len()).map(|one| one.inside)
    }

    #[test]
    fn root_of_the_guest_has_an_id_that_the_container_does_not_use() {
        assert_eq!(spare(&[(0, 100_000, 65_536)]), Some(u32::MAX - 1));
        assert_eq!(spare(&[(0, 1, u32::MAX - 1)]), Some(u32::MAX - 1));
        let high = u32::MAX - 10;
        assert_eq!(spare(&[(0, 100_000, 10), (high, 200_000, 10)]), Some(high - 1));
        assert_eq!(spare(&[(0, 0, 10)]), None);
    }
}
