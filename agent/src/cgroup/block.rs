//! `linux.resources.blockIO` as `io.weight` or `io.bfq.weight`, and `io.max`. Pure.

use std::collections::BTreeMap;

use oci_spec::runtime::{LinuxBlockIo, LinuxThrottleDevice};

use super::resources::Setting;
use crate::spec::{SpecError, refuse};

const FIELD: &str = "linux.resources.blockIO";

/// Major and minor number.
type Device = (u32, u32);

/// Which of the kernel's two ways to share a device by weight is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WeightFile {
    /// `io.bfq.weight`, of an I/O scheduler: 1 to 1000.
    Bfq,
    /// `io.weight`, of the cost model: 1 to 10000.
    Cost,
}

impl WeightFile {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Bfq => "io.bfq.weight",
            Self::Cost => "io.weight",
        }
    }

    /// From the spec's weight (10 to 1000), linearly.
    fn convert(self, weight: u16) -> u32 {
        let weight = u32::from(weight);
        match self {
            Self::Bfq => weight,
            Self::Cost => 1 + (weight - 10) * 9999 / 990,
        }
    }
}

/// Weights of the spec: 10 to 1000.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Weights {
    default: Option<u16>,
    devices: Vec<(Device, u16)>,
}

impl Weights {
    /// Whether there are any.
    #[must_use]
    pub fn are_given(&self) -> bool {
        self.default.is_some() || !self.devices.is_empty()
    }

    /// What to write.
    #[must_use]
    pub fn settings(&self, file: WeightFile) -> Vec<Setting> {
        let setting = |value: String| (file.name().to_owned(), value);
        let default = self.default.map(|weight| format!("default {}", file.convert(weight)));
        let devices = self
            .devices
            .iter()
            .map(|((major, minor), weight)| format!("{major}:{minor} {}", file.convert(*weight)));
        default.into_iter().chain(devices).map(setting).collect()
    }
}

/// Reads weights, and adds `io.max`, one line for each device.
///
/// # Errors
/// [`SpecError`] with the field's name.
pub fn read(block: &LinuxBlockIo, settings: &mut Vec<Setting>) -> Result<Weights, SpecError> {
    let some = |weight: Option<u16>| weight.filter(|&weight| weight != 0);
    refuse("linux.resources.blockIO.", &[("leafWeight", some(block.leaf_weight()).is_some())])?;
    let mut weights = Weights {
        default: some(block.weight()).map(|weight| in_range("weight", weight)).transpose()?,
        devices: Vec::new(),
    };
    for entry in block.weight_device().iter().flatten() {
        refuse(
            "linux.resources.blockIO.weightDevice.",
            &[("leafWeight", some(entry.leaf_weight()).is_some())],
        )?;
        let device = device("weightDevice", entry.major(), entry.minor())?;
        if let Some(weight) = some(entry.weight()) {
            weights.devices.push((device, in_range("weightDevice", weight)?));
        }
    }
    throttle(block, settings)?;
    Ok(weights)
}

fn throttle(block: &LinuxBlockIo, settings: &mut Vec<Setting>) -> Result<(), SpecError> {
    let mut lines: BTreeMap<Device, String> = BTreeMap::new();
    let lists: [(&str, &str, &Option<Vec<LinuxThrottleDevice>>); 4] = [
        ("throttleReadBpsDevice", "rbps", block.throttle_read_bps_device()),
        ("throttleWriteBpsDevice", "wbps", block.throttle_write_bps_device()),
        ("throttleReadIOPSDevice", "riops", block.throttle_read_iops_device()),
        ("throttleWriteIOPSDevice", "wiops", block.throttle_write_iops_device()),
    ];
    for (field, key, list) in lists {
        for entry in list.iter().flatten() {
            let device = device(field, entry.major(), entry.minor())?;
            let rate = match entry.rate() {
                // As cgroup v1 has it: no limit any more.
                0 => "max".to_owned(),
                rate => rate.to_string(),
            };
            let line = lines.entry(device).or_insert_with(|| format!("{}:{}", device.0, device.1));
            line.push_str(&format!(" {key}={rate}"));
        }
    }
    settings.extend(lines.into_values().map(|line| ("io.max".to_owned(), line)));
    Ok(())
}

fn in_range(field: &str, weight: u16) -> Result<u16, SpecError> {
    if (10..=1000).contains(&weight) {
        return Ok(weight);
    }
    let reason = format!("{weight} is not in 10 to 1000");
    Err(SpecError::invalid(format!("{FIELD}.{field}"), reason))
}

fn device(field: &str, major: i64, minor: i64) -> Result<Device, SpecError> {
    match (u32::try_from(major), u32::try_from(minor)) {
        (Ok(major), Ok(minor)) => Ok((major, minor)),
        _ => {
            let reason = format!("{major}:{minor} is no device");
            Err(SpecError::invalid(format!("{FIELD}.{field}"), reason))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn parse(block: Value) -> Result<(Weights, Vec<String>), SpecError> {
        let mut settings = Vec::new();
        let weights = read(&serde_json::from_value(block).unwrap(), &mut settings)?;
        assert!(settings.iter().all(|(file, _)| file == "io.max"));
        Ok((weights, settings.into_iter().map(|(_, value)| value).collect()))
    }

    #[test]
    fn weights_are_converted_for_the_file_that_is_there() {
        let block = json!({"weight": 500, "weightDevice": [
            {"major": 254, "minor": 0, "weight": 10}, {"major": 254, "minor": 16, "weight": 1000},
        ]});
        let (weights, _) = parse(block).unwrap();
        let values = |file: WeightFile| -> Vec<String> {
            let settings = weights.settings(file);
            assert!(settings.iter().all(|(name, _)| name == file.name()));
            settings.into_iter().map(|(_, value)| value).collect()
        };
        assert_eq!(values(WeightFile::Cost), ["default 4950", "254:0 1", "254:16 10000"]);
        assert_eq!(values(WeightFile::Bfq), ["default 500", "254:0 10", "254:16 1000"]);
    }

    #[test]
    fn limits_of_a_device_are_one_line() {
        let limit = |rate: u64| json!([{"major": 254, "minor": 16, "rate": rate}]);
        let block = json!({
            "throttleReadBpsDevice": [
                {"major": 254, "minor": 16, "rate": 1_048_576},
                {"major": 254, "minor": 0, "rate": 7},
            ],
            "throttleWriteBpsDevice": limit(0),
            "throttleReadIOPSDevice": limit(100),
            "throttleWriteIOPSDevice": limit(200),
        });
        let (weights, lines) = parse(block).unwrap();
        assert!(!weights.are_given());
        assert_eq!(lines, ["254:0 rbps=7", "254:16 rbps=1048576 wbps=max riops=100 wiops=200"]);
    }

    #[test]
    fn what_makes_no_sense_is_invalid_and_what_is_gone_unsupported() {
        for block in [
            json!({"weight": 9}),
            json!({"weight": 1001}),
            json!({"weightDevice": [{"major": -1, "minor": 0, "weight": 10}]}),
            json!({"throttleReadBpsDevice": [{"major": 1, "minor": -1, "rate": 1}]}),
        ] {
            assert!(matches!(parse(block), Err(SpecError::Invalid { .. })));
        }
        let leaf = parse(json!({"leafWeight": 10})).unwrap_err();
        assert_eq!(leaf, SpecError::unsupported("linux.resources.blockIO.leafWeight"));
        assert_eq!(parse(json!({"weight": 0})).unwrap(), (Weights::default(), vec![]));
    }
}
