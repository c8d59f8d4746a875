//! Images of an archive that `docker save` made: `manifest.json` names the configuration and the
//! layers, whose only digests are those of the configuration.

use serde::Deserialize;

use super::super::digest::{Digest, is_lower_hex};
use super::super::layer::Layout;
use super::super::reference::Reference;
use super::{ArchiveError, Container, Found, FoundLayer, diff_ids, parse_json};

/// Source: docker's image/tarexport, `manifestItem`.
#[derive(Deserialize)]
struct Item {
    #[serde(rename = "Config")]
    config: String,
    #[serde(rename = "RepoTags", default)]
    repo_tags: Option<Vec<String>>,
    #[serde(rename = "Layers", default)]
    layers: Option<Vec<String>>,
}

/// The images of the archive: the one tagged `wanted`, or all.
pub fn find(container: &Container, wanted: Option<&str>) -> Result<Vec<Found>, ArchiveError> {
    let bytes = container.read("manifest.json", || "manifest.json".to_owned())?;
    let items: Vec<Item> = parse_json(&bytes, || "manifest.json".to_owned())?;
    let known = || items.iter().filter_map(|item| item.repo_tags.clone()).flatten().collect();
    let mut found = Vec::new();
    for item in items.iter().filter(|item| is_wanted(item, wanted)) {
        found.push(read_image(container, item)?);
    }
    if found.is_empty() {
        let wanted = wanted.unwrap_or("at all").to_owned();
        return Err(ArchiveError::NoSuchImage { wanted, known: known() });
    }
    Ok(found)
}

fn is_wanted(item: &Item, wanted: Option<&str>) -> bool {
    let Some(wanted) = wanted else { return true };
    let tags = item.repo_tags.as_deref().unwrap_or_default();
    let wanted_name = wanted.parse::<Reference>().ok();
    tags.iter().any(|tag| {
        let name = tag.parse::<Reference>().ok();
        // `docker-archive:path:1.2` asks for a tag, `docker-archive:path:name:1.2` for a name.
        let tag_is_it = name.as_ref().is_some_and(|name| name.tag() == wanted);
        tag == wanted || tag_is_it || (name.is_some() && name == wanted_name)
    })
}

fn read_image(container: &Container, item: &Item) -> Result<Found, ArchiveError> {
    let config = container.read(&item.config, || "the image's configuration".to_owned())?;
    if let Some(digest) = digest_in_name(&item.config) {
        let actual = digest.same_kind_of(&config);
        if actual != digest {
            let what = format!("configuration {digest}");
            return Err(ArchiveError::Digest { what, actual });
        }
    }
    let paths = item.layers.as_deref().unwrap_or_default();
    let diff_ids = diff_ids(&config, paths.len())?;
    let mut layers = Vec::new();
    for (path, diff_id) in paths.iter().zip(diff_ids) {
        let (bytes, _) = container.open(path, || format!("layer {diff_id}"))?;
        layers.push(FoundLayer {
            layout: Layout { blob: None, diff_id },
            bytes,
            media_type: "application/vnd.docker.image.rootfs.diff.tar".to_owned(),
            path: path.clone(),
        });
    }
    let tags = item.repo_tags.as_deref().unwrap_or_default();
    let names = tags.iter().filter_map(|tag| tag.parse().ok()).collect();
    Ok(Found { config, manifest: None, layers, names })
}

/// The digest that a configuration's name says: `<hex>.json`, or `blobs/sha256/<hex>`.
fn digest_in_name(name: &str) -> Option<Digest> {
    let file = name.rsplit('/').next()?;
    let hex = file.strip_suffix(".json").unwrap_or(file);
    if hex.len() == 64 && is_lower_hex(hex) { format!("sha256:{hex}").parse().ok() } else { None }
}
