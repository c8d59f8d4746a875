//! New resources for a container that is there.

use std::{fs, path::Path};

use oci_spec::runtime::LinuxResources;

use super::{
    CgroupError,
    devices::Rules,
    resources::{Limits, Setting},
};
use crate::spec::SpecError;

/// What is to change. What it does not speak of stays.
#[derive(Debug)]
pub struct Update {
    pub(super) limits: Limits,
    pub(super) devices: Option<Rules>,
}

impl Update {
    /// Reads `linux.resources`, as JSON.
    ///
    /// # Errors
    /// [`SpecError`].
    pub fn read(json: &[u8]) -> Result<Self, SpecError> {
        let resources: LinuxResources =
            serde_json::from_slice(json).map_err(|error| SpecError::Json(error.to_string()))?;
        Ok(Self {
            limits: Limits::read(&resources)?,
            devices: resources.devices().as_deref().map(Rules::read).transpose()?,
        })
    }

    /// `memory.checkBeforeUpdate`: a limit below what is in use would have processes killed.
    pub(super) fn check_memory(&self, folder: &Path) -> Result<(), CgroupError> {
        let Some(limit) = self.limits.checked_memory_bytes else { return Ok(()) };
        let used = fs::read_to_string(folder.join("memory.current")).unwrap_or_default();
        match used.trim().parse() {
            Ok(used) if used > limit => Err(CgroupError::MemoryInUse { limit, used }),
            _ => Ok(()),
        }
    }

    /// A period alone leaves the quota as it is.
    pub(super) fn keep_quota(&self, folder: &Path, settings: &mut [Setting]) {
        if !self.limits.period_alone {
            return;
        }
        let current = fs::read_to_string(folder.join("cpu.max")).unwrap_or_default();
        let Some(quota) = current.split_whitespace().next() else { return };
        for (_, value) in settings.iter_mut().filter(|(file, _)| file == "cpu.max") {
            if let Some(period) = value.strip_prefix("max ") {
                *value = format!("{quota} {period}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn update_is_read_whole_or_refused() {
        let update = Update::read(br#"{"pids": {"limit": 5}}"#).unwrap();
        assert!(update.devices.is_none());
        let update = Update::read(br#"{"devices": [{"allow": true, "access": "rwm"}]}"#).unwrap();
        assert!(update.devices.is_some());
        for json in ["", "5", r#"{"pids": 5}"#] {
            assert!(matches!(Update::read(json.as_bytes()), Err(SpecError::Json(_))), "{json}");
        }
    }

    #[test]
    fn period_alone_keeps_the_quota() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("cpu.max"), "5000 100000\n").unwrap();
        let quota = |json: &str| {
            let mut settings = vec![("cpu.max".to_owned(), "max 20000".to_owned())];
            Update::read(json.as_bytes()).unwrap().keep_quota(folder.path(), &mut settings);
            settings.remove(0).1
        };
        assert_eq!(quota(r#"{"cpu": {"period": 20000}}"#), "5000 20000");
        assert_eq!(quota(r#"{"cpu": {"period": 20000, "quota": -1}}"#), "max 20000");
    }

    #[test]
    fn limit_below_what_is_in_use_is_refused_where_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("memory.current"), "1000\n").unwrap();
        let check = |json: &str| Update::read(json.as_bytes()).unwrap().check_memory(folder.path());
        let error = check(r#"{"memory": {"limit": 999, "checkBeforeUpdate": true}}"#).unwrap_err();
        assert!(error.to_string().contains("999 bytes are below the 1000"), "{error}");
        check(r#"{"memory": {"limit": 999}}"#).unwrap();
        check(r#"{"memory": {"limit": 1000, "checkBeforeUpdate": true}}"#).unwrap();
    }
}
