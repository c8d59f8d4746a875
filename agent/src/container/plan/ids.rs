//! `linux.uidMappings` and `linux.gidMappings`: user_namespaces(7).

use oci_spec::runtime::{Linux, LinuxIdMapping};
use serde::{Deserialize, Serialize};

use super::namespaces::{Kind, NamespaceList};
use crate::{
    spec::{SpecError, has},
    sys::user_namespace::{MAX_MAPPINGS, Mapping, fits},
};

/// The ids of a user namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMaps {
    /// Users.
    pub uid: Vec<Mapping>,
    /// Groups.
    pub gid: Vec<Mapping>,
}

impl IdMaps {
    /// Reads both lists. They are there if and only if a user namespace is to be made.
    ///
    /// # Errors
    /// [`SpecError`] with the list's name.
    pub fn read(linux: &Linux, list: &NamespaceList) -> Result<Option<Self>, SpecError> {
        let lists = [
            ("linux.uidMappings", linux.uid_mappings()),
            ("linux.gidMappings", linux.gid_mappings()),
        ];
        if !list.is_new(Kind::User) {
            return match lists.iter().find(|(_, list)| has(list)) {
                Some((field, _)) if list.namespaces.user => {
                    Err(SpecError::invalid(*field, "the joined user namespace has its own"))
                }
                Some((field, _)) => Err(SpecError::invalid(*field, "needs a user namespace")),
                None => Ok(None),
            };
        }
        let [uid, gid] =
            lists.map(|(field, list)| mappings(field, list.as_deref().unwrap_or_default()));
        Ok(Some(Self { uid: uid?, gid: gid? }))
    }

    /// Whether a group of the namespace is one of the guest.
    #[must_use]
    pub fn has_group(&self, inside: u32) -> bool {
        covers(&self.gid, inside)
    }

    /// Whether a user of the namespace is one of the guest.
    #[must_use]
    pub fn has_user(&self, inside: u32) -> bool {
        covers(&self.uid, inside)
    }
}

fn covers(map: &[Mapping], inside: u32) -> bool {
    map.iter().any(|one| inside.checked_sub(one.inside).is_some_and(|offset| offset < one.size))
}

fn mappings(field: &str, list: &[LinuxIdMapping]) -> Result<Vec<Mapping>, SpecError> {
    if list.is_empty() {
        return Err(SpecError::invalid(field, "is needed by a new user namespace"));
    }
    if list.len() > MAX_MAPPINGS {
        return Err(SpecError::invalid(field, format!("has more than {MAX_MAPPINGS} lines")));
    }
    let map: Vec<Mapping> = list
        .iter()
        .map(|one| Mapping { inside: one.container_id(), outside: one.host_id(), size: one.size() })
        .collect();
    if !fits(&map) {
        return Err(SpecError::invalid(field, "is a page of text or more, which no kernel takes"));
    }
    for one in &map {
        check_range(field, one)?;
    }
    no_overlap(field, "containerID", map.iter().map(|one| (one.inside, one.size)))?;
    no_overlap(field, "hostID", map.iter().map(|one| (one.outside, one.size)))?;
    if !covers(&map, 0) {
        let reason = "maps no container id 0: the container is set up as its root";
        return Err(SpecError::invalid(field, reason));
    }
    Ok(map)
}

/// The last id, `(u32)-1`, is none.
fn check_range(field: &str, one: &Mapping) -> Result<(), SpecError> {
    if one.size == 0 {
        return Err(SpecError::invalid(field, "has a size of 0"));
    }
    for (name, first) in [("containerID", one.inside), ("hostID", one.outside)] {
        if first.checked_add(one.size).is_none() {
            let reason = format!("{name} {first} with size {} leaves the ids", one.size);
            return Err(SpecError::invalid(field, reason));
        }
    }
    Ok(())
}

fn no_overlap(
    field: &str,
    name: &str,
    ranges: impl Iterator<Item = (u32, u32)>,
) -> Result<(), SpecError> {
    let mut ranges: Vec<(u32, u32)> = ranges.collect();
    ranges.sort_unstable();
    let mut end = 0;
    for (first, size) in ranges {
        if first < end {
            return Err(SpecError::invalid(field, format!("{name} {first} is mapped twice")));
        }
        end = first.saturating_add(size);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn read(list: &[(u32, u32, u32)]) -> Result<Vec<Mapping>, SpecError> {
        let list: Vec<LinuxIdMapping> = list
            .iter()
            .map(|(container, host, size)| {
                let one = json!({"containerID": container, "hostID": host, "size": size});
                serde_json::from_value(one).unwrap()
            })
            .collect();
        mappings("linux.uidMappings", &list)
    }

    #[test]
    fn maps_that_the_kernel_would_refuse_are_refused_with_a_reason() {
        for (list, reason) in [
            (vec![], "is needed"),
            (vec![(0, 100_000, 0)], "size of 0"),
            (vec![(0, u32::MAX, 1)], "leaves the ids"),
            (vec![(0, 1, u32::MAX)], "leaves the ids"),
            (vec![(0, 1000, 10), (9, 2000, 10)], "containerID 9 is mapped twice"),
            (vec![(0, 1000, 10), (10, 1009, 10)], "hostID 1009 is mapped twice"),
            (vec![(1, 1000, 10)], "container id 0"),
        ] {
            let error = read(&list).unwrap_err().to_string();
            assert!(error.contains(reason), "{list:?}: {error}");
        }
        assert!(read(&[(0, 0, u32::MAX)]).is_ok());
        assert!(read(&[(1, 1000, 10), (0, 7, 1)]).is_ok());
    }

    #[test]
    fn at_most_as_many_lines_as_the_kernel_takes() {
        let list = |len| (0..len).map(|i| (i, 1000 + 2 * i, 1)).collect::<Vec<_>>();
        assert!(read(&list(340)).is_ok());
        assert!(read(&list(341)).unwrap_err().to_string().contains("more than 340"));
        let long: Vec<_> =
            list(300).into_iter().map(|(i, o, s)| (i, o + 3_000_000_000, s)).collect();
        assert!(read(&long).unwrap_err().to_string().contains("a page of text"));
    }

    proptest! {
        #[test]
        fn any_numbers_are_read_or_refused(
            list in proptest::collection::vec((any::<u32>(), any::<u32>(), any::<u32>()), 0..8),
        ) {
            let _ = read(&list);
        }
    }
}
