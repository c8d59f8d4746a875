//! `pause`, `unpause`, `restart`, `rename`, `update`, `top`: verbs on containers that are there.

use serde_json::{Value, json};

use super::args::{self, LimitFlags};
use super::containers::grace;
use super::failure::Failure;
use super::{for_each, print_line, print_rows, run};
use crate::engine::Engine;
use crate::engine::record::Resources;

/// `husk pause`.
pub fn pause(flags: &args::Containers) -> Result<u8, Failure> {
    let engine = Engine::open()?;
    for_each("pause", &flags.containers, |name| {
        engine.pause(&engine.find(name)?)?;
        print_line(name);
        Ok(())
    })
}

/// `husk unpause`.
pub fn unpause(flags: &args::Containers) -> Result<u8, Failure> {
    let engine = Engine::open()?;
    for_each("unpause", &flags.containers, |name| {
        engine.unpause(&engine.find(name)?)?;
        print_line(name);
        Ok(())
    })
}

/// `husk restart`. One that does not run is started.
pub fn restart(flags: &args::Stop) -> Result<u8, Failure> {
    let engine = Engine::open()?;
    for_each("restart", &flags.containers.containers, |name| {
        let container = engine.find(name)?;
        engine.stop(&container, grace(flags.time, &container))?;
        let Some(container) = engine.settle_after_monitor(&container)? else {
            return Err(Failure::new("it was removed when it had ended (--rm)"));
        };
        run::start_again(&engine, &container)?;
        print_line(name);
        Ok(())
    })
}

/// `husk rename`.
pub fn rename(flags: &args::Rename) -> Result<u8, Failure> {
    let rename = || -> Result<(), Failure> {
        let engine = Engine::open()?;
        Ok(engine.rename(&engine.find(&flags.container)?, &flags.name)?)
    };
    rename().map_err(|failure| failure.during(&format!("rename {}", flags.container)))?;
    Ok(0)
}

/// `husk update`.
pub fn update(flags: &args::Update) -> Result<u8, Failure> {
    if is_empty(&flags.limits) {
        return Err(Failure::new(
            "update: you must provide one or more flags when using this command",
        ));
    }
    let engine = Engine::open()?;
    for_each("update", &flags.containers.containers, |name| {
        engine.update(&engine.find(name)?, |resources| put_over(resources, &flags.limits))?;
        print_line(name);
        Ok(())
    })
}

fn is_empty(flags: &LimitFlags) -> bool {
    let mut resources = Resources::default();
    put_over(&mut resources, flags);
    let said_nothing = flags.pids_limit.is_none() && flags.memory_swap.is_none();
    resources == Resources::default() && said_nothing
}

/// What flags say takes the place of what is.
fn put_over(resources: &mut Resources, flags: &LimitFlags) {
    let new = super::wishes::resources(flags);
    let all = [
        (&mut resources.memory_bytes, flags.memory.is_some(), new.memory_bytes),
        (
            &mut resources.memory_reservation_bytes,
            flags.memory_reservation.is_some(),
            new.memory_reservation_bytes,
        ),
        (&mut resources.milli_cpus, flags.cpus.is_some(), new.milli_cpus),
        (&mut resources.cpu_shares, flags.cpu_shares.is_some(), new.cpu_shares),
        (&mut resources.cpu_period_us, flags.cpu_period.is_some(), new.cpu_period_us),
    ];
    for (place, said, value) in all {
        if said {
            *place = value;
        }
    }
    if flags.cpu_quota.is_some() {
        resources.cpu_quota_us = new.cpu_quota_us;
    }
    if flags.memory_swap.is_some() {
        resources.memory_swap_bytes = new.memory_swap_bytes;
    }
    if flags.pids_limit.is_some() {
        resources.pids_limit = new.pids_limit;
    }
    if flags.blkio_weight.is_some() {
        resources.blkio_weight = new.blkio_weight;
    }
    for (place, said, value) in [
        (&mut resources.cpuset_cpus, flags.cpuset_cpus.is_some(), new.cpuset_cpus),
        (&mut resources.cpuset_mems, flags.cpuset_mems.is_some(), new.cpuset_mems),
    ] {
        if said {
            *place = value;
        }
    }
}

/// `husk top`.
pub fn top(flags: &args::Top) -> Result<u8, Failure> {
    let list = || -> Result<Vec<Value>, Failure> {
        let engine = Engine::open()?;
        let processes = engine.processes(&engine.find(&flags.container)?)?;
        let row = |process: crate::guest::ProcessInfo| {
            let name: String = process.name.chars().filter(|c| !c.is_control()).collect();
            json!({ "PID": process.pid.to_string(), "CMD": name })
        };
        Ok(processes.into_iter().map(row).collect())
    };
    let rows = list().map_err(|failure| failure.during(&format!("top {}", flags.container)))?;
    print_rows("table", &["PID", "CMD"], &["PID", "CMD"], &rows)?;
    Ok(0)
}
