//! Where an image is to be loaded from, as users write it.

use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Why a text names no source.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// A prefix without a path.
    #[error("{text:?} names no path")]
    NoPath {
        /// The text.
        text: String,
    },
    /// A plain path that is not there.
    #[error("no such file or folder: {path}")]
    NotFound {
        /// The path.
        path: String,
    },
}

/// What kind of archive it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// To be found out.
    Any,
    /// A folder with `index.json` and `blobs`.
    OciLayout,
    /// A tar archive of such a folder.
    OciArchive,
    /// What `docker save` writes.
    DockerArchive,
}

/// Where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// On the file system.
    Path(PathBuf),
    /// On standard input.
    Stdin,
}

/// An image archive, and which image of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// What kind of archive it is.
    pub format: Format,
    /// Where it is.
    pub place: Place,
    /// Tag or name of the one image that is wanted; all of them without.
    pub reference: Option<String>,
}

const PREFIXES: [(&str, Format); 3] = [
    ("oci:", Format::OciLayout),
    ("oci-archive:", Format::OciArchive),
    ("docker-archive:", Format::DockerArchive),
];
const ARCHIVE_SUFFIXES: [&str; 8] =
    [".tar.gz", ".tar.zst", ".tar.zstd", ".tgz", ".tar", ".gz", ".zst", ".oci"];

impl FromStr for Source {
    type Err = SourceError;

    /// Reads `oci:path[:tag]`, `oci-archive:path[:tag]`, `docker-archive:path[:tag]`, `-` for
    /// standard input, or the path of a file or folder that is there.
    fn from_str(text: &str) -> Result<Self, SourceError> {
        Source::parse(text)
    }
}

impl Source {
    /// As [`Source::from_str`].
    pub fn parse(text: &str) -> Result<Self, SourceError> {
        if text == "-" {
            return Ok(Source { format: Format::Any, place: Place::Stdin, reference: None });
        }
        if let Some(source) = Source::with_prefix(text)? {
            return Ok(source);
        }
        if text.is_empty() || !Path::new(text).exists() {
            return Err(SourceError::NotFound { path: text.to_owned() });
        }
        Ok(Source { format: Format::Any, place: Place::Path(text.into()), reference: None })
    }

    /// A source that its prefix tells from the name of a stored image: what `husk run` accepts.
    pub fn with_prefix(text: &str) -> Result<Option<Self>, SourceError> {
        let Some((rest, format)) = PREFIXES
            .iter()
            .find_map(|(prefix, format)| Some((text.strip_prefix(prefix)?, *format)))
        else {
            return Ok(None);
        };
        let (path, reference) = split_reference(rest);
        if path.is_empty() {
            return Err(SourceError::NoPath { text: text.to_owned() });
        }
        Ok(Some(Source { format, place: Place::Path(path.into()), reference }))
    }

    /// For messages: the path, or `standard input`.
    pub fn display_name(&self) -> String {
        match &self.place {
            Place::Stdin => "standard input".to_owned(),
            Place::Path(path) => path.display().to_string(),
        }
    }

    /// The file's or folder's own name without an archive's suffix: the repository of an image
    /// that brings only a tag.
    pub fn name_hint(&self) -> Option<String> {
        let Place::Path(path) = &self.place else { return None };
        // `.` and `dir/..` have a name only when they are resolved.
        let resolved = path.canonicalize().unwrap_or_else(|_| path.clone());
        let name = resolved.file_name()?.to_str()?.to_lowercase();
        let stem = ARCHIVE_SUFFIXES.iter().find_map(|suffix| name.strip_suffix(suffix));
        Some(stem.unwrap_or(&name).to_owned())
    }
}

/// Splits `path[:reference]`: a whole that exists is a path; else the part after the first colon
/// is the reference.
fn split_reference(text: &str) -> (&str, Option<String>) {
    if Path::new(text).exists() {
        return (text, None);
    }
    match text.split_once(':') {
        Some((path, reference)) if !reference.is_empty() => (path, Some(reference.to_owned())),
        Some((path, _)) => (path, None),
        None => (text, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_tell_the_format() {
        let source = Source::parse("oci:some/layout:v1").unwrap();
        assert_eq!(source.format, Format::OciLayout);
        assert_eq!(source.place, Place::Path("some/layout".into()));
        assert_eq!(source.reference.as_deref(), Some("v1"));
        let source = Source::parse("docker-archive:x.tar:busybox:1.36").unwrap();
        assert_eq!(source.reference.as_deref(), Some("busybox:1.36"));
        assert_eq!(Source::parse("-").unwrap().place, Place::Stdin);
    }

    #[test]
    fn a_path_with_a_colon_that_exists_is_a_path() {
        let folder = tempfile::Builder::new().prefix("a:b").tempdir().unwrap();
        let text = format!("oci:{}", folder.path().display());
        let source = Source::parse(&text).unwrap();
        assert_eq!(source.place, Place::Path(folder.path().into()));
        assert_eq!(source.reference, None);
    }

    #[test]
    fn what_is_not_there_is_refused() {
        assert!(matches!(Source::parse("oci:"), Err(SourceError::NoPath { .. })));
        assert!(matches!(Source::parse("no/such/file"), Err(SourceError::NotFound { .. })));
        assert!(matches!(Source::parse(""), Err(SourceError::NotFound { .. })));
        assert_eq!(Source::with_prefix("busybox:latest").unwrap(), None);
    }

    #[test]
    fn name_hint_is_the_stem() {
        let hint = |text: &str| Source::parse(text).unwrap().name_hint();
        assert_eq!(hint("oci-archive:a/Busy.tar.gz:x").as_deref(), Some("busy"));
        assert_eq!(hint("oci:a/busybox").as_deref(), Some("busybox"));
        assert_eq!(hint("-"), None);
    }
}
