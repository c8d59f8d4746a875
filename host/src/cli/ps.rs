//! `ps`: containers as rows.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::args;
use super::failure::Failure;
use super::print_rows;
use super::table::ago;
use crate::engine::Engine;
use crate::engine::record::Phase;
use crate::engine::store::Container;

const COMMAND_WIDTH: usize = 20;

/// `husk ps`.
pub fn ps(flags: &args::Ps) -> Result<u8, Failure> {
    list(flags).map_err(|failure| failure.during("ps"))
}

fn list(flags: &args::Ps) -> Result<u8, Failure> {
    let filters =
        flags.filter.iter().map(|text| Filter::parse(text)).collect::<Result<Vec<_>, _>>()?;
    let by_state = filters.iter().any(|filter| matches!(filter.key, Key::Status | Key::Exited));
    let mut found = Engine::open()?.list()?;
    found.reverse();
    if let Some(last) = flags.last {
        found.truncate(last);
    }
    found.retain(|container| {
        let shown = flags.all || flags.last.is_some() || by_state || container.status.is_live();
        shown && filters.iter().all(|filter| filter.admits(container))
    });
    if flags.quiet {
        for container in &found {
            super::print_line(id_of(container, flags.no_trunc));
        }
        return Ok(0);
    }
    let rows: Vec<Value> = found.iter().map(|container| row(container, flags.no_trunc)).collect();
    let columns = ["CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "NAMES"];
    let fields = ["ID", "Image", "Command", "RunningFor", "Status", "Names"];
    print_rows(&flags.format, &columns, &fields, &rows)?;
    Ok(0)
}

fn id_of(container: &Container, whole: bool) -> &str {
    if whole { container.config.id.as_str() } else { container.short_id() }
}

fn since(time: Option<Timestamp>) -> String {
    time.map_or_else(|| "?".to_owned(), |time| ago((Timestamp::now() - time).as_secs()))
}

/// docker's `Status`.
fn status_text(container: &Container) -> String {
    let status = &container.status;
    match status.phase {
        Phase::Created => "Created".to_owned(),
        Phase::Starting => "Starting".to_owned(),
        Phase::Running if status.paused => format!("Up {} (Paused)", since(status.started)),
        Phase::Running => format!("Up {}", since(status.started)),
        Phase::Exited => format!("Exited ({}) {} ago", status.exit_code, since(status.finished)),
    }
}

fn row(container: &Container, whole: bool) -> Value {
    let config = &container.config;
    let mut command = config.process.args.join(" ");
    if !whole && command.chars().count() > COMMAND_WIDTH {
        command = command.chars().take(COMMAND_WIDTH - 1).chain(['…']).collect();
    }
    json!({
        "ID": id_of(container, whole),
        "Image": config.image.reference,
        "Command": format!("\"{command}\""),
        "CreatedAt": config.created.to_string(),
        "RunningFor": format!("{} ago", since(Some(config.created))),
        "State": container.status.state(),
        "Status": status_text(container),
        "Names": config.name,
        "Ports": "",
        "Labels": labels(container),
        "Mounts": "",
        "Networks": "",
    })
}

/// `name=value` of each, as docker's column has them.
fn labels(container: &Container) -> String {
    let labels = container.config.notes.labels.iter();
    labels.map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(",")
}

struct Filter {
    key: Key,
    value: String,
}

#[derive(Clone, Copy)]
enum Key {
    Name,
    Id,
    Status,
    Ancestor,
    Exited,
    Label,
}

impl Filter {
    fn parse(text: &str) -> Result<Self, Failure> {
        let bad = || {
            Failure::new(format!(
                "filter {text:?}: name=, id=, status=, ancestor=, exited= or label="
            ))
        };
        let (key, value) = text.split_once('=').ok_or_else(bad)?;
        let key = match key {
            "name" => Key::Name,
            "id" => Key::Id,
            "status" => Key::Status,
            "ancestor" => Key::Ancestor,
            "exited" => Key::Exited,
            "label" => Key::Label,
            _ => return Err(bad()),
        };
        Ok(Self { key, value: value.to_owned() })
    }

    fn admits(&self, container: &Container) -> bool {
        let (config, status, value) = (&container.config, &container.status, self.value.as_str());
        match self.key {
            Key::Name => config.name.contains(value),
            Key::Id => config.id.as_str().starts_with(value),
            Key::Status => status.state() == value,
            Key::Ancestor => {
                config.image.reference == value
                    || config.image.id.trim_start_matches("sha256:").starts_with(value)
            }
            Key::Label => match value.split_once('=') {
                Some((name, value)) => config.notes.labels.get(name).is_some_and(|v| v == value),
                None => config.notes.labels.contains_key(value),
            },
            Key::Exited => status.phase == Phase::Exited && status.exit_code.to_string() == value,
        }
    }
}
