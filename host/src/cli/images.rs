//! `load`, `images`, `rmi`, and how `run` finds its image.

use serde_json::{Value, json};

use super::args;
use super::failure::Failure;
use super::table::ago;
use super::{for_each, print_line, print_rows};
use crate::engine::Engine;
use crate::image::progress::{Style, human_bytes, on_stderr};
use crate::image::{Image, ImageError, Source};

/// An image by its name; one that says where it is (`oci:...`) is loaded first.
pub fn resolve_or_load(engine: &Engine, word: &str, style: Style) -> Result<Image, Failure> {
    let Some(source) = Source::with_prefix(word)? else {
        return Ok(engine.images().resolve(word)?);
    };
    let mut loaded = engine.images().load(&source, &*on_stderr(style))?;
    match (loaded.pop(), loaded.is_empty()) {
        (Some(image), true) => Ok(image),
        _ => Err(Failure::new(format!("{word}: holds more than one image (name one with :TAG)"))),
    }
}

/// `husk load`.
pub fn load(flags: &args::Load) -> Result<u8, Failure> {
    use std::io::IsTerminal;
    let word = flags.source.as_deref().or(flags.input.as_deref()).unwrap_or("-");
    let load = || -> Result<Vec<Image>, Failure> {
        if word == "-" && std::io::stdin().is_terminal() {
            return Err(Failure::new("standard input is a terminal (name a file, or use <)"));
        }
        let source = Source::parse(word)?;
        let quiet = if flags.quiet { Style::None } else { flags.progress };
        Ok(Engine::open()?.images().load(&source, &*on_stderr(quiet))?)
    };
    for image in load().map_err(|failure| failure.during(&format!("load {word}")))? {
        match image.tags.first() {
            Some(tag) if !flags.quiet => print_line(&format!("Loaded image: {}", familiar(tag))),
            None if !flags.quiet => print_line(&format!("Loaded image ID: {}", image.id)),
            _ => print_line(&image.id.to_string()),
        }
    }
    Ok(0)
}

/// `husk images`.
pub fn images(flags: &args::Images) -> Result<u8, Failure> {
    let engine = Engine::open()?;
    let found = match &flags.reference {
        None => engine.images().list(),
        Some(reference) => match engine.images().resolve(reference) {
            Ok(image) => Ok(vec![image]),
            Err(ImageError::NotFound { .. }) => Ok(Vec::new()),
            Err(error) => Err(error),
        },
    };
    let found = found.map_err(|error| Failure::from(error).during("images"))?;
    if flags.quiet {
        for image in &found {
            print_line(&id_of(image, flags.no_trunc));
        }
        return Ok(0);
    }
    let rows: Vec<Value> = found.iter().flat_map(|image| rows(image, flags.no_trunc)).collect();
    let columns = ["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"];
    let fields = ["Repository", "Tag", "ID", "CreatedSince", "Size"];
    print_rows(&flags.format, &columns, &fields, &rows)?;
    Ok(0)
}

fn id_of(image: &Image, whole: bool) -> String {
    let id = image.id.to_string();
    if whole { id } else { id.trim_start_matches("sha256:").chars().take(12).collect() }
}

/// A name as people write it: docker's own registry and library are understood.
fn familiar(tag: &str) -> &str {
    let tag = tag.strip_prefix("docker.io/").unwrap_or(tag);
    tag.strip_prefix("library/").unwrap_or(tag)
}

/// One row a tag, or one for an image without.
fn rows(image: &Image, whole: bool) -> Vec<Value> {
    let created =
        image.config.created().as_deref().and_then(|text| text.parse::<jiff::Timestamp>().ok());
    let since = created.map_or_else(
        || "N/A".to_owned(),
        |created| format!("{} ago", ago((jiff::Timestamp::now() - created).as_secs())),
    );
    let row = |repository: &str, tag: &str| {
        json!({
            "Repository": repository,
            "Tag": tag,
            "ID": id_of(image, whole),
            "CreatedSince": since,
            "CreatedAt": created.map(|created| created.to_string()),
            "Size": human_bytes(image.size_bytes),
        })
    };
    if image.tags.is_empty() {
        return vec![row("<none>", "<none>")];
    }
    let split = |tag: &str| match tag.rsplit_once(':') {
        Some((repository, tag)) => row(repository, tag),
        None => row(tag, "<none>"),
    };
    image.tags.iter().map(|tag| split(familiar(tag))).collect()
}

/// `husk rmi`.
pub fn rmi(flags: &args::Rmi) -> Result<u8, Failure> {
    let engine = Engine::open()?;
    for_each("rmi", &flags.images, |name| {
        let removed = match engine.remove_image(name, flags.force) {
            Err(crate::engine::error::Error::Image(ImageError::NotFound { .. })) if flags.force => {
                return Ok(());
            }
            removed => removed?,
        };
        for tag in &removed.untagged {
            print_line(&format!("Untagged: {}", familiar(tag)));
        }
        if let Some(id) = &removed.deleted {
            print_line(&format!("Deleted: {id}"));
        }
        Ok(())
    })
}
