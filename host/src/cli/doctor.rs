//! `doctor`: what works on this machine, and what to do about what does not.

use serde_json::{Value, json};

use super::args;
use super::failure::{Failure, print_error_line};
use crate::engine::doctor::{self, Check, Health};

/// Some container could not run.
const EXIT_UNWELL: u8 = 1;

/// `husk doctor`.
pub fn doctor(flags: &args::Doctor) -> Result<u8, Failure> {
    let checks = doctor::examine(flags.hypervisor);
    let rows: Vec<Value> = checks.iter().map(row).collect();
    let heading = ["CHECK", "STATE", "FOUND"];
    super::print_rows(&flags.format, &heading, &["Check", "State", "Found"], &rows)?;
    if flags.format == "table" {
        let advised = checks.iter().filter(|check| !check.advice.is_empty());
        advised.for_each(|check| super::print_line(&format!("{}: {}", check.name, check.advice)));
    }
    if doctor::is_well(&checks) {
        return Ok(0);
    }
    print_error_line("husk: doctor: no container can run on this machine as it is");
    Ok(EXIT_UNWELL)
}

fn row(check: &Check) -> Value {
    let state = match check.health {
        Health::Good => "ok",
        Health::Spare => "not usable",
        Health::Broken => "broken",
    };
    json!({ "Check": check.name, "State": state, "Found": check.found, "Advice": check.advice })
}
