//! The two words of `husk cp`: what is a container's and what is the host's.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::super::failure::Failure;

/// One end of a copy.
#[derive(Debug, PartialEq, Eq)]
pub enum Place {
    /// An archive on standard input or output.
    Stdio,
    /// On the host.
    Local(PathBuf),
    /// In a container.
    Container {
        /// Its name or id.
        name: String,
        /// Where in it.
        path: GuestPath,
    },
}

impl Place {
    /// docker's rule: what is before the first colon is a container, unless the word begins as a
    /// path does.
    pub fn parse(word: &OsStr) -> Result<Self, Failure> {
        let bytes = word.as_bytes();
        if bytes.is_empty() {
            return Err(Failure::new("cp: a path must not be empty"));
        }
        if bytes == b"-" {
            return Ok(Self::Stdio);
        }
        let local = || Ok(Self::Local(PathBuf::from(word)));
        if bytes.starts_with(b"/") || bytes.starts_with(b".") || !bytes.contains(&b':') {
            return local();
        }
        let text = word.to_str().ok_or_else(|| {
            Failure::new("cp: a path in a container must be UTF-8 (copy the folder that has it)")
        })?;
        match text.split_once(':') {
            Some(("", _)) | None => local(),
            Some((name, path)) => {
                Ok(Self::Container { name: name.to_owned(), path: GuestPath::new(path) })
            }
        }
    }
}

/// An absolute path in a container, without `.` and `..`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestPath {
    text: String,
    /// It was written as a folder's: with a slash at its end.
    pub asserts_folder: bool,
    /// It was written as what is in a folder: with `/.` at its end.
    pub is_content: bool,
}

impl GuestPath {
    /// Paths are relative to the root, as docker has it.
    pub fn new(text: &str) -> Self {
        let mut parts: Vec<&str> = Vec::new();
        for part in text.split('/') {
            match part {
                "" | "." => {}
                ".." => drop(parts.pop()),
                part => parts.push(part),
            }
        }
        Self {
            text: format!("/{}", parts.join("/")),
            asserts_folder: text.is_empty() || asserts_folder(text.as_bytes()),
            is_content: parts.is_empty() || is_content(text.as_bytes()),
        }
    }

    /// As the guest is asked for it.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// As the guest is asked for what is in it.
    pub fn content(&self) -> String {
        format!("{}/.", self.text.trim_end_matches('/'))
    }

    /// Its last part; the root has none.
    pub fn name(&self) -> Option<&str> {
        self.text.rsplit('/').next().filter(|name| !name.is_empty())
    }

    /// The folder that it is in.
    pub fn parent(&self) -> Self {
        Self::new(self.text.rsplit_once('/').map_or("", |(parent, _)| parent))
    }

    /// Where a symbolic link here leads to.
    pub fn linked_to(&self, target: &str) -> Self {
        match target.starts_with('/') {
            true => Self::new(target),
            false => Self::new(&format!("{}/{target}", self.parent().text)),
        }
    }
}

/// Whether a path is written as a folder's.
pub fn asserts_folder(path: &[u8]) -> bool {
    path.ends_with(b"/") || is_content(path)
}

/// Whether a path is written as what is in a folder.
pub fn is_content(path: &[u8]) -> bool {
    path == b"." || path.ends_with(b"/.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_are_told_from_paths() {
        let parse = |word: &str| Place::parse(OsStr::new(word)).unwrap();
        for local in ["/a:b", "./a:b", "../a:b", "plain", ":x", ".a:b"] {
            assert_eq!(parse(local), Place::Local(local.into()), "{local}");
        }
        assert_eq!(parse("-"), Place::Stdio);
        let Place::Container { name, path } = parse("web:etc/../var//log/.") else { panic!() };
        assert_eq!((name.as_str(), path.text()), ("web", "/var/log"));
        assert!(path.is_content && path.asserts_folder);
        assert!(Place::parse(OsStr::new("")).is_err());
        assert!(Place::parse(OsStr::from_bytes(b"web:\xff")).is_err());
    }

    #[test]
    fn paths_of_containers_stay_below_their_root() {
        assert_eq!(GuestPath::new("../../etc").text(), "/etc");
        assert_eq!(GuestPath::new("").text(), "/");
        assert!(GuestPath::new("a/..").is_content);
        assert_eq!(GuestPath::new("/a/b").linked_to("../c").text(), "/c");
        assert_eq!(GuestPath::new("/a/b").linked_to("c/d").text(), "/a/c/d");
        assert_eq!(GuestPath::new("/a/b").linked_to("/c").text(), "/c");
        assert_eq!(GuestPath::new("/a").parent().text(), "/");
        assert_eq!(GuestPath::new("/").content(), "/.");
        assert_eq!(GuestPath::new("/a").content(), "/a/.");
        assert_eq!((GuestPath::new("/a/b/").name(), GuestPath::new("/").name()), (Some("b"), None));
    }
}
