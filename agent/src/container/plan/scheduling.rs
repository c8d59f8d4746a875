//! `process.scheduler`, `process.ioPriority` and `process.execCPUAffinity`.

use oci_spec::runtime::{
    IOPriorityClass, LinuxIOPriority, LinuxSchedulerFlag, LinuxSchedulerPolicy, Process, Scheduler,
};
use serde::{Deserialize, Serialize};

use super::short;
use crate::{spec::SpecError, sys::scheduling::Attributes};

/// CPUs that a list may name: as many as other runtimes take.
const MAX_CPUS: u32 = 1024;
/// linux/ioprio.h.
const IOPRIO_CLASS_SHIFT: u16 = 13;
const MAX_IO_LEVEL: u16 = 7;
/// sched(7).
const REAL_TIME: std::ops::RangeInclusive<i32> = 1..=99;
const NICE: std::ops::RangeInclusive<i32> = -20..=19;
/// The shortest runtime that the kernel schedules: `DL_SCALE`, kernel/sched.
const MIN_RUNTIME_NS: u64 = 1024;

/// When and where a process runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scheduling {
    /// Policy and parameters.
    pub attributes: Option<Attributes>,
    /// Class and level, as ioprio_set(2) has them.
    pub io_priority: Option<u16>,
    /// An exec's CPUs while it is set up.
    pub initial_cpus: Option<Cpus>,
    /// An exec's CPUs from its first instruction.
    pub final_cpus: Option<Cpus>,
}

/// A set of CPUs, never empty.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cpus(Vec<u64>);

impl Cpus {
    /// As sched_setaffinity(2) has them.
    #[must_use]
    pub fn words(&self) -> &[u64] {
        &self.0
    }

    /// Reads a list like `0-3,7`.
    fn parse(field: &str, list: &str) -> Result<Self, SpecError> {
        let invalid =
            |part: &str| SpecError::invalid(field, format!("{:?} is no list of CPUs", short(part)));
        let mut words: Vec<u64> = Vec::new();
        for part in list.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let number = |text: &str| {
                text.parse::<u32>().ok().filter(|&cpu| cpu < MAX_CPUS).ok_or_else(|| invalid(part))
            };
            let (first, last) = (number(first)?, number(last)?);
            if first > last {
                return Err(invalid(part));
            }
            for cpu in first..=last {
                let (word, bit) = (cpu as usize / 64, cpu % 64);
                if words.len() <= word {
                    words.resize(word + 1, 0);
                }
                if let Some(word) = words.get_mut(word) {
                    *word |= 1 << bit;
                }
            }
        }
        Ok(Self(words))
    }
}

impl Scheduling {
    /// Reads the three fields.
    ///
    /// # Errors
    /// [`SpecError`] with the field's name.
    pub fn read(process: &Process) -> Result<Self, SpecError> {
        let cpus = |field: &str, list: Option<&String>| {
            let list = list.filter(|list| !list.is_empty());
            list.map(|list| Cpus::parse(field, list)).transpose()
        };
        let affinity = process.exec_cpu_affinity().as_ref();
        let initial = affinity.and_then(|affinity| affinity.initial().as_ref());
        let last = affinity.and_then(|affinity| affinity.cpu_affinity_final().as_ref());
        Ok(Self {
            attributes: process.scheduler().as_ref().map(attributes).transpose()?,
            io_priority: process.io_priority().as_ref().map(io_priority).transpose()?,
            initial_cpus: cpus("process.execCPUAffinity.initial", initial)?,
            final_cpus: cpus("process.execCPUAffinity.final", last)?,
        })
    }

    /// Takes out what needs the guest's root. The CPUs stay.
    #[must_use]
    pub fn take_privileged(&mut self) -> Self {
        Self {
            attributes: self.attributes.take(),
            io_priority: self.io_priority.take(),
            ..Self::default()
        }
    }

    /// Takes from a container what an exec does not say for itself.
    pub fn inherit(&mut self, from: &Self) {
        self.attributes = self.attributes.or(from.attributes);
        self.io_priority = self.io_priority.or(from.io_priority);
        if self.initial_cpus.is_none() && self.final_cpus.is_none() {
            self.initial_cpus.clone_from(&from.initial_cpus);
            self.final_cpus.clone_from(&from.final_cpus);
        }
    }
}

fn io_priority(priority: &LinuxIOPriority) -> Result<u16, SpecError> {
    let class: u16 = match priority.class() {
        IOPriorityClass::IoprioClassRt => 1,
        IOPriorityClass::IoprioClassBe => 2,
        IOPriorityClass::IoprioClassIdle => 3,
    };
    match u16::try_from(priority.priority()) {
        Ok(level) if level <= MAX_IO_LEVEL => Ok(class << IOPRIO_CLASS_SHIFT | level),
        _ => Err(SpecError::invalid("process.ioPriority.priority", "is not between 0 and 7")),
    }
}

fn attributes(scheduler: &Scheduler) -> Result<Attributes, SpecError> {
    use LinuxSchedulerPolicy as Policy;
    let policy = *scheduler.policy();
    let number = match policy {
        Policy::SchedOther => 0,
        Policy::SchedFifo => 1,
        Policy::SchedRr => 2,
        Policy::SchedBatch => 3,
        Policy::SchedIso => {
            let reason = "SCHED_ISO is reserved: no Linux has it";
            return Err(SpecError::invalid("process.scheduler.policy", reason));
        }
        Policy::SchedIdle => 5,
        Policy::SchedDeadline => 6,
    };
    let nice = scheduler.nice().unwrap_or_default();
    if !NICE.contains(&nice) {
        return Err(SpecError::invalid(
            "process.scheduler.nice",
            format!("{nice} is out of range"),
        ));
    }
    let [runtime_ns, deadline_ns, period_ns] = deadline(scheduler, policy)?;
    let flags = scheduler.flags().iter().flatten().fold(0, |all, flag| all | bit(*flag));
    Ok(Attributes {
        policy: number,
        flags,
        nice,
        priority: priority(scheduler, policy)?,
        runtime_ns,
        deadline_ns,
        period_ns,
    })
}

fn priority(scheduler: &Scheduler, policy: LinuxSchedulerPolicy) -> Result<u32, SpecError> {
    use LinuxSchedulerPolicy as Policy;
    let priority = scheduler.priority().unwrap_or_default();
    let invalid = |reason: String| Err(SpecError::invalid("process.scheduler.priority", reason));
    match policy {
        Policy::SchedFifo | Policy::SchedRr if !REAL_TIME.contains(&priority) => {
            invalid(format!("{priority} is out of range"))
        }
        Policy::SchedFifo | Policy::SchedRr => Ok(priority.unsigned_abs()),
        _ if priority != 0 => invalid("is for SCHED_FIFO and SCHED_RR alone".to_owned()),
        _ => Ok(0),
    }
}

fn deadline(scheduler: &Scheduler, policy: LinuxSchedulerPolicy) -> Result<[u64; 3], SpecError> {
    let times = [scheduler.runtime(), scheduler.deadline(), scheduler.period()];
    let times = times.map(|time| time.unwrap_or_default());
    let [runtime, deadline, period] = times;
    let invalid = |reason| Err(SpecError::invalid("process.scheduler", reason));
    if policy != LinuxSchedulerPolicy::SchedDeadline {
        return match times {
            [0, 0, 0] => Ok(times),
            _ => invalid("runtime, deadline and period are for SCHED_DEADLINE alone"),
        };
    }
    let period = if period == 0 { deadline } else { period };
    let kept = runtime >= MIN_RUNTIME_NS && runtime <= deadline && deadline <= period;
    // sched(7).
    if kept && period < 1 << 63 {
        Ok(times)
    } else {
        invalid("needs 1024 <= runtime <= deadline <= period")
    }
}

/// `SCHED_FLAG_*`, linux/sched.h.
fn bit(flag: LinuxSchedulerFlag) -> u64 {
    match flag {
        LinuxSchedulerFlag::SchedResetOnFork => 0x01,
        LinuxSchedulerFlag::SchedFlagReclaim => 0x02,
        LinuxSchedulerFlag::SchedFlagDLOverrun => 0x04,
        LinuxSchedulerFlag::SchedFlagKeepPolicy => 0x08,
        LinuxSchedulerFlag::SchedFlagKeepParams => 0x10,
        LinuxSchedulerFlag::SchedFlagUtilClampMin => 0x20,
        LinuxSchedulerFlag::SchedFlagUtilClampMax => 0x40,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn read(field: &str, value: Value) -> Result<Scheduling, SpecError> {
        let mut process = json!({"user": {"uid": 0, "gid": 0}, "args": ["sh"], "cwd": "/"});
        process[field] = value;
        super::super::parse_process(process.to_string().as_bytes()).map(|plan| plan.scheduling)
    }

    fn refused(field: &str, value: Value) -> String {
        match read(field, value) {
            Err(SpecError::Invalid { field, .. }) => field,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn scheduler_is_as_the_kernel_has_it() {
        let value = json!({
            "policy": "SCHED_DEADLINE", "nice": 19, "runtime": 42000, "deadline": 1_000_000,
            "period": 1_000_000, "flags": ["SCHED_FLAG_RESET_ON_FORK", "SCHED_FLAG_DL_OVERRUN"],
        });
        let attributes = read("scheduler", value).unwrap().attributes.unwrap();
        assert_eq!((attributes.policy, attributes.flags, attributes.nice), (6, 5, 19));
        assert_eq!(attributes.runtime_ns, 42000);
        let fifo = read("scheduler", json!({"policy": "SCHED_FIFO", "priority": 99})).unwrap();
        assert_eq!(fifo.attributes.unwrap().priority, 99);
    }

    #[test]
    fn scheduler_that_makes_no_sense_is_refused_by_name() {
        for (value, field) in [
            (json!({"policy": "SCHED_OTHER", "nice": 20}), ".nice"),
            (json!({"policy": "SCHED_OTHER", "priority": 1}), ".priority"),
            (json!({"policy": "SCHED_FIFO"}), ".priority"),
            (json!({"policy": "SCHED_RR", "priority": 100}), ".priority"),
            (json!({"policy": "SCHED_BATCH", "runtime": 1}), ""),
            (json!({"policy": "SCHED_DEADLINE", "runtime": 5000, "deadline": 4000}), ""),
            (json!({"policy": "SCHED_ISO"}), ".policy"),
            (json!({"policy": "SCHED_NONE"}), ".policy"),
            (json!({"policy": "SCHED_OTHER", "flags": ["X"]}), ".flags"),
        ] {
            assert_eq!(refused("scheduler", value), format!("process.scheduler{field}"));
        }
    }

    #[test]
    fn io_priority_is_a_class_and_a_level() {
        let read = |value| read("ioPriority", value);
        let idle = read(json!({"class": "IOPRIO_CLASS_IDLE", "priority": 0})).unwrap();
        assert_eq!(idle.io_priority, Some(3 << 13));
        let best_effort = read(json!({"class": "IOPRIO_CLASS_BE", "priority": 7})).unwrap();
        assert_eq!(best_effort.io_priority, Some(2 << 13 | 7));
        for priority in [-1, 8] {
            assert!(read(json!({"class": "IOPRIO_CLASS_RT", "priority": priority})).is_err());
        }
        let unknown = refused("ioPriority", json!({"class": "IOPRIO_CLASS_X", "priority": 0}));
        assert_eq!(unknown, "process.ioPriority.class");
    }

    #[test]
    fn list_of_cpus_is_a_set() {
        let cpus = |list: &str| read("execCPUAffinity", json!({"initial": list, "final": ""}));
        assert_eq!(cpus("0-2,64,1").unwrap().initial_cpus, Some(Cpus(vec![7, 1])));
        assert_eq!(cpus("").unwrap().initial_cpus, None);
        for list in ["3-1", "1024", "0-99999999999999999999", "x", ","] {
            let error = cpus(list).unwrap_err();
            assert!(error.to_string().contains("execCPUAffinity"), "{list}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_list_is_a_set_or_refused(list in "[0-9,-]{0,20}") {
            if let Ok(cpus) = Cpus::parse("x", &list) {
                prop_assert!(cpus.words().len() <= 16);
                prop_assert!(cpus.words().iter().any(|&word| word != 0));
            }
        }

        #[test]
        fn set_of_a_range_has_its_size(first in 0..1024_u32, len in 0..200_u32) {
            let last = (first + len).min(1023);
            let cpus = Cpus::parse("x", &format!("{first}-{last}")).unwrap();
            let count: u32 = cpus.words().iter().map(|word| word.count_ones()).sum();
            prop_assert_eq!(count, last - first + 1);
        }
    }
}
