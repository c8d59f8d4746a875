//! Figures, as a table for people and as JSON for machines.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};

/// One figure.
#[derive(Debug)]
struct Figure {
    name: String,
    value: f64,
    unit: &'static str,
    /// At most this much is wanted.
    limit: Option<f64>,
}

/// What could not be measured.
#[derive(Debug)]
struct Skipped {
    name: String,
    reason: String,
}

/// All figures of a run.
#[derive(Debug, Default)]
pub struct Report {
    figures: Vec<Figure>,
    skipped: Vec<Skipped>,
}

impl Report {
    /// Adds a figure, and the most that it should be.
    pub fn add(&mut self, name: &str, value: f64, unit: &'static str, limit: Option<f64>) {
        self.figures.push(Figure { name: name.to_owned(), value, unit, limit });
    }

    /// Adds a time.
    pub fn time(&mut self, name: &str, time: Duration) {
        self.add(name, time.as_secs_f64() * 1000.0, "ms", None);
    }

    /// Says why figures are missing.
    pub fn skip(&mut self, name: &str, reason: &str) {
        self.skipped.push(Skipped { name: name.to_owned(), reason: reason.to_owned() });
    }

    /// Prints the table on standard output.
    pub fn print(&self) {
        let width = self.figures.iter().map(|figure| figure.name.len()).max().unwrap_or(0);
        for Figure { name, value, unit, limit } in &self.figures {
            let verdict = match limit {
                Some(limit) if value > limit => format!("  at most {}: MISSED", short(*limit)),
                Some(limit) => format!("  at most {}", short(*limit)),
                None => String::new(),
            };
            println!("{name:<width$}  {value:>10.2} {unit:<6}{verdict}");
        }
        for Skipped { name, reason } in &self.skipped {
            println!("SKIPPED: {name}: {reason}");
        }
    }

    /// Writes the JSON.
    pub fn write(&self, path: &Path) -> Result<()> {
        let figure = |figure: &Figure| {
            json!({
                "name": figure.name,
                "value": figure.value,
                "unit": figure.unit,
                "limit": figure.limit,
            })
        };
        let skipped =
            |Skipped { name, reason }: &Skipped| json!({ "name": name, "skipped": reason });
        let all: Vec<Value> =
            self.figures.iter().map(figure).chain(self.skipped.iter().map(skipped)).collect();
        Ok(std::fs::write(path, serde_json::to_vec_pretty(&all)?)?)
    }
}

/// A limit without digits that say nothing.
fn short(limit: f64) -> String {
    let text = format!("{limit:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// The middle of some values; 0 without any.
pub fn median<T: PartialOrd + Copy + Default>(values: &[T]) -> T {
    let mut sorted = values.to_vec();
    sorted.sort_by(|a, b| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal));
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

/// One time over another.
pub fn ratio(time: Duration, base: Duration) -> f64 {
    time.as_secs_f64() / base.as_secs_f64()
}
