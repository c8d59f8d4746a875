//! `inspect`: everything known of a container or an image, in docker's shape.

mod shape;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::cli::args;
use crate::cli::failure::Failure;
use crate::cli::template::Template;
use crate::engine::Engine;
use crate::engine::error::Error;
use crate::engine::record::Phase;
use crate::engine::store::Container;
use crate::image::Image;

/// docker's time for "never".
const NEVER: &str = "0001-01-01T00:00:00Z";

/// `husk inspect`.
pub fn inspect(flags: &args::Inspect) -> Result<u8, Failure> {
    let engine = Engine::open()?;
    let template = match flags.format.as_deref() {
        None | Some("json") => None,
        Some(text) => Some(Template::parse(text).map_err(Failure::new)?),
    };
    let mut all = Vec::new();
    let code = crate::cli::for_each("inspect", &flags.names, |name| {
        let value = find(&engine, flags.kind.as_deref(), name)?;
        match &template {
            Some(template) => {
                crate::cli::print_line(&template.render(&value).map_err(Failure::new)?)
            }
            None => all.push(value),
        }
        Ok(())
    });
    if template.is_none() {
        let text = serde_json::to_string_pretty(&all).map_err(|e| Failure::new(e.to_string()))?;
        crate::cli::print_line(&text);
    }
    code
}

fn find(engine: &Engine, kind: Option<&str>, name: &str) -> Result<Value, Failure> {
    match kind {
        Some("container") => Ok(container(&engine.find(name)?)),
        Some("image") => Ok(image(&engine.images().resolve(name)?)),
        Some(other) => Err(Failure::new(format!("type {other:?}: container or image"))),
        None => match engine.find(name) {
            Ok(found) => Ok(container(&found)),
            Err(Error::NoSuchContainer(_)) => match engine.images().resolve(name) {
                Ok(found) => Ok(image(&found)),
                Err(_) => Err(Failure::new(format!("no such container or image: {name}"))),
            },
            Err(error) => Err(error.into()),
        },
    }
}

fn time(time: Option<Timestamp>) -> String {
    time.map_or_else(|| NEVER.to_owned(), |time| time.to_string())
}

fn container(container: &Container) -> Value {
    let (config, status) = (&container.config, &container.status);
    let process = &config.process;
    let (path, args) = process.args.split_first().map_or(("", &[][..]), |(p, a)| (p.as_str(), a));
    json!({
        "Id": config.id,
        "Created": config.created.to_string(),
        "Path": path,
        "Args": args,
        "State": {
            "Status": status.state(),
            "Running": status.phase == Phase::Running,
            "Paused": status.paused,
            "Restarting": false,
            "OOMKilled": status.oom_killed,
            "Dead": false,
            "Pid": status.vm_pid,
            "ExitCode": status.exit_code,
            "Error": status.error,
            "StartedAt": time(status.started),
            "FinishedAt": time(status.finished),
        },
        "Image": config.image.id,
        "Name": format!("/{}", config.name),
        "LogPath": container.dir.output_log(),
        "Mounts": shape::mounts(config),
        "HostConfig": shape::host_config(config),
        "Config": shape::config(config),
        "Husk": {
            "MonitorPid": status.monitor_pid,
            "Hypervisor": {
                "Requested": config.hypervisor,
                "Name": status.hypervisor.as_ref().map(|choice| &choice.name),
                "Accelerator": status.hypervisor.as_ref().map(|choice| &choice.accelerator),
                "Reason": status.hypervisor.as_ref().map(|choice| &choice.reason),
            },
            "Jail": status.hypervisor.as_ref().map(|choice| &choice.jail).filter(|jail| !jail.is_empty()),
            "GuestSysctls": config.surroundings.guest_sysctls,
            "KernelArgs": config.surroundings.kernel_args,
            "ConsoleLog": container.dir.console_log(),
            "MonitorLog": container.dir.monitor_log(),
            "Disk": container.dir.disk(),
        },
    })
}

/// An image in docker's shape.
pub fn image(image: &Image) -> Value {
    json!({
        "Id": image.id.to_string(),
        "RepoTags": image.tags,
        "Created": image.config.created(),
        "Architecture": image.config.architecture().to_string(),
        "Os": image.config.os().to_string(),
        "Size": image.size_bytes,
        "Config": image.config.config(),
        "RootFS": { "Type": "layers", "Layers": image.config.rootfs().diff_ids() },
        "Husk": { "Disk": image.disk },
    })
}
