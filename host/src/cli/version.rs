//! `version`: husk's own, and what it speaks to its guests.

use serde_json::json;

use super::args;
use super::failure::Failure;
use super::template::Template;

/// `husk version`.
pub fn version(flags: &args::Version) -> Result<u8, Failure> {
    let value = json!({
        "Version": env!("CARGO_PKG_VERSION"),
        "Protocol": husk_protocols::PROTOCOL_VERSION,
        "Os": std::env::consts::OS,
        "Arch": std::env::consts::ARCH,
    });
    let text = match flags.format.as_deref() {
        None => format!(
            "husk {}\nprotocol {}\n{}/{}",
            env!("CARGO_PKG_VERSION"),
            husk_protocols::PROTOCOL_VERSION,
            std::env::consts::OS,
            std::env::consts::ARCH
        ),
        Some("json") => value.to_string(),
        Some(text) => Template::parse(text)
            .and_then(|template| template.render(&value))
            .map_err(Failure::new)?,
    };
    super::print_line(&text);
    Ok(0)
}
