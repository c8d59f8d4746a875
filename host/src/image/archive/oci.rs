//! Images of an OCI layout: index, manifest and configuration, each checked against its digest.
//!
//! Source: OCI image-spec, image-layout.md, image-index.md and manifest.md.

use oci_spec::image::{Descriptor, ImageIndex, ImageManifest, Platform};

use super::super::digest::Digest;
use super::super::layer::Layout;
use super::super::reference::Reference;
use super::{ArchiveError, Container, Found, FoundLayer, MAX_JSON, diff_ids, parse_json};

/// Most indexes inside of indexes.
const MAX_DEPTH: usize = 4;
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The whole name, as containerd and docker write it beside `ref.name`.
const CONTAINERD_NAME: &str = "io.containerd.image.name";
/// Set on the attestations that buildkit puts beside images.
const BUILDKIT_REFERENCE_TYPE: &str = "vnd.docker.reference.type";

/// The images of the layout: those called `wanted`, or all. Names without a repository get
/// `name_hint` as one.
pub fn find(
    container: &Container,
    wanted: Option<&str>,
    name_hint: Option<&str>,
) -> Result<Vec<Found>, ArchiveError> {
    let bytes = container.read("index.json", || "index.json".to_owned())?;
    let index: ImageIndex = parse_json(&bytes, || "index.json".to_owned())?;
    let mut found: Vec<Found> = Vec::new();
    let mut platforms = Vec::new();
    for descriptor in index.manifests().iter().filter(|d| is_wanted(d, wanted)) {
        let Some(descriptor) = for_this_machine(container, descriptor, 0, &mut platforms)? else {
            continue;
        };
        let names = names(&descriptor.annotated, name_hint);
        let digest: Digest = descriptor.manifest.digest().to_string().parse()?;
        match found.iter_mut().find(|image| image.manifest.as_ref() == Some(&digest)) {
            Some(image) => image.names.extend(names),
            None => found.push(read_image(container, &descriptor.manifest, digest, names)?),
        }
    }
    if !found.is_empty() {
        return Ok(found);
    }
    if !platforms.is_empty() {
        return Err(ArchiveError::Platform { found: platforms });
    }
    let known = index.manifests().iter().filter_map(|d| annotation(d, REF_NAME)).collect();
    Err(ArchiveError::NoSuchImage { wanted: wanted.unwrap_or("at all").to_owned(), known })
}

/// The manifest for this machine, and the descriptor of the top level that led to it.
struct Chosen {
    manifest: Descriptor,
    annotated: Descriptor,
}

fn for_this_machine(
    container: &Container,
    descriptor: &Descriptor,
    depth: usize,
    platforms: &mut Vec<String>,
) -> Result<Option<Chosen>, ArchiveError> {
    if annotation(descriptor, BUILDKIT_REFERENCE_TYPE).is_some() {
        return Ok(None);
    }
    if let Some(platform) = descriptor.platform()
        && !is_this_machine(platform)
    {
        platforms.push(format!("{}/{}", platform.os(), platform.architecture()));
        return Ok(None);
    }
    let chosen = || Chosen { manifest: descriptor.clone(), annotated: descriptor.clone() };
    if !is_index(descriptor) {
        return Ok(Some(chosen()));
    }
    if depth >= MAX_DEPTH {
        let why = "more than 4 indexes inside of each other";
        return Err(ArchiveError::Shape { what: format!("index {}", descriptor.digest()), why });
    }
    let bytes = read_blob(container, descriptor, "index")?;
    let index: ImageIndex = parse_json(&bytes, || format!("index {}", descriptor.digest()))?;
    for inner in index.manifests() {
        if let Some(found) = for_this_machine(container, inner, depth + 1, platforms)? {
            return Ok(Some(Chosen { annotated: descriptor.clone(), ..found }));
        }
    }
    Ok(None)
}

fn read_image(
    container: &Container,
    descriptor: &Descriptor,
    digest: Digest,
    names: Vec<Reference>,
) -> Result<Found, ArchiveError> {
    let bytes = read_blob(container, descriptor, "manifest")?;
    let manifest: ImageManifest = parse_json(&bytes, || format!("manifest {digest}"))?;
    let config = read_blob(container, manifest.config(), "configuration")?;
    let diff_ids = diff_ids(&config, manifest.layers().len())?;
    let mut layers = Vec::new();
    for (layer, diff_id) in manifest.layers().iter().zip(diff_ids) {
        layers.push(find_layer(container, layer, diff_id)?);
    }
    Ok(Found { config, manifest: Some(digest), layers, names })
}

fn find_layer(
    container: &Container,
    descriptor: &Descriptor,
    diff_id: Digest,
) -> Result<FoundLayer, ArchiveError> {
    let blob: Digest = descriptor.digest().to_string().parse()?;
    let path = blob_path(&blob);
    let what = || format!("layer {blob}");
    let (bytes, _) = container.open(&path, what)?;
    check_size(descriptor, bytes, what)?;
    let media_type = descriptor.media_type().to_string();
    Ok(FoundLayer { layout: Layout { blob: Some(blob), diff_id }, bytes, media_type, path })
}

/// A small blob, checked.
fn read_blob(
    container: &Container,
    descriptor: &Descriptor,
    kind: &str,
) -> Result<Vec<u8>, ArchiveError> {
    let digest: Digest = descriptor.digest().to_string().parse()?;
    let what = || format!("{kind} {digest}");
    if descriptor.size() > MAX_JSON {
        return Err(ArchiveError::TooLarge { what: what() });
    }
    let bytes = container.read(&blob_path(&digest), what)?;
    check_size(descriptor, u64::try_from(bytes.len()).unwrap_or(u64::MAX), what)?;
    let actual = digest.same_kind_of(&bytes);
    if actual != digest {
        return Err(ArchiveError::Digest { what: what(), actual });
    }
    Ok(bytes)
}

fn check_size(
    descriptor: &Descriptor,
    actual: u64,
    what: impl FnOnce() -> String,
) -> Result<(), ArchiveError> {
    let expected = descriptor.size();
    if actual == expected {
        return Ok(());
    }
    Err(ArchiveError::Size { what: what(), expected, actual })
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm(), digest.hex())
}

fn is_index(descriptor: &Descriptor) -> bool {
    let media_type = descriptor.media_type().to_string();
    media_type == "application/vnd.oci.image.index.v1+json"
        || media_type == "application/vnd.docker.distribution.manifest.list.v2+json"
}

fn is_this_machine(platform: &Platform) -> bool {
    platform.os().to_string() == "linux" && platform.architecture().to_string() == "amd64"
}

fn annotation(descriptor: &Descriptor, key: &str) -> Option<String> {
    descriptor.annotations().as_ref()?.get(key).cloned()
}

fn is_wanted(descriptor: &Descriptor, wanted: Option<&str>) -> bool {
    let Some(wanted) = wanted else { return true };
    let wanted_name = wanted.parse::<Reference>().ok();
    let is_it = |name: String| match name.parse::<Reference>() {
        _ if name == wanted => true,
        // A whole name can be asked for by its tag, or spelled in another way.
        Ok(name) => name.tag() == wanted || Some(name) == wanted_name,
        Err(_) => false,
    };
    [REF_NAME, CONTAINERD_NAME].into_iter().filter_map(|key| annotation(descriptor, key)).any(is_it)
}

/// The names of an image: the whole one where it is given, else the tag below `hint`.
fn names(descriptor: &Descriptor, hint: Option<&str>) -> Vec<Reference> {
    if let Some(Ok(name)) = annotation(descriptor, CONTAINERD_NAME).map(|name| name.parse()) {
        return vec![name];
    }
    let Some(ref_name) = annotation(descriptor, REF_NAME) else {
        return hint.and_then(|hint| hint.parse().ok()).into_iter().collect();
    };
    let name = if ref_name.contains(['/', ':']) {
        ref_name.parse().ok()
    } else {
        hint.and_then(|hint| format!("{hint}:{ref_name}").parse().ok())
    };
    name.into_iter().collect()
}
