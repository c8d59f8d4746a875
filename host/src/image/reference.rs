//! Image names as users write them, made whole: `busybox` is `docker.io/library/busybox:latest`.
//! Knows neither stores nor registries.

use std::fmt;
use std::str::FromStr;

/// Why a text is not an image name.
#[derive(Debug, thiserror::Error)]
#[error("{text:?} is not an image name: {why}")]
pub struct ReferenceError {
    text: String,
    why: &'static str,
}

const DEFAULT_DOMAIN: &str = "docker.io";
const LEGACY_DOMAIN: &str = "index.docker.io";
/// Longest name without its tag. Source: distribution/reference, `NameTotalLengthMax`.
const MAX_NAME: usize = 255;
/// Longest tag. Source: OCI distribution-spec, "Pulling manifests".
const MAX_TAG: usize = 128;

/// A whole image name: domain, path and tag.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    domain: String,
    path: String,
    tag: String,
}

impl Reference {
    /// Domain of the registry, `docker.io` by default.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// Path of the repository, with `library/` where docker puts it.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The tag, `latest` by default.
    pub fn tag(&self) -> &str {
        &self.tag
    }

    /// Domain and path without the tag, as docker shows them: `busybox`, `ghcr.io/a/b`.
    pub fn familiar_name(&self) -> String {
        if self.domain != DEFAULT_DOMAIN {
            return format!("{}/{}", self.domain, self.path);
        }
        self.path.strip_prefix("library/").unwrap_or(&self.path).to_owned()
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}:{}", self.domain, self.path, self.tag)
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    /// Reads `[domain/]path[:tag]`. The first component is a domain when it holds a dot or a
    /// colon, or is `localhost`.
    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let bad = |why| ReferenceError { text: text.chars().take(300).collect(), why };
        let (domain, rest) = match text.split_once('/') {
            Some((first, rest)) if is_domain(first) => (first, rest),
            _ => (DEFAULT_DOMAIN, text),
        };
        let domain = if domain == LEGACY_DOMAIN { DEFAULT_DOMAIN } else { domain };
        let (path, tag) = rest.rsplit_once(':').unwrap_or((rest, "latest"));
        if !is_valid_domain(domain) {
            return Err(bad("the registry's name has a character that no host name has"));
        }
        if !is_valid_tag(tag) {
            return Err(bad("a tag is up to 128 letters, digits, '_', '.' and '-'"));
        }
        if path.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(bad("the name must be lower case"));
        }
        if !path.split('/').all(is_valid_component) {
            return Err(bad("names are lower case letters and digits between '.', '_', '-', '/'"));
        }
        let path = if domain == DEFAULT_DOMAIN && !path.contains('/') {
            format!("library/{path}")
        } else {
            path.to_owned()
        };
        if domain.len() + 1 + path.len() > MAX_NAME {
            return Err(bad("the name is longer than 255 characters"));
        }
        Ok(Reference { domain: domain.to_owned(), path, tag: tag.to_owned() })
    }
}

fn is_domain(first: &str) -> bool {
    first == "localhost" || first.contains(['.', ':'])
}

fn is_valid_domain(domain: &str) -> bool {
    let label = |label: &str| !label.is_empty() && !label.starts_with('-') && !label.ends_with('-');
    let known = |b: u8| b.is_ascii_alphanumeric() || b"-.:[]".contains(&b);
    let port_is_number = match domain.rsplit_once(':') {
        Some((_, port)) => domain.ends_with(']') || port.bytes().all(|b| b.is_ascii_digit()),
        None => true,
    };
    domain.bytes().all(known) && domain.split('.').all(label) && port_is_number
}

fn is_valid_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    tag.len() <= MAX_TAG
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

/// Letters and digits, with single dots, one or two underscores or any number of dashes between.
fn is_valid_component(component: &str) -> bool {
    let alphanumeric = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = component.as_bytes();
    let ends = [bytes.first(), bytes.last()];
    ends.iter().all(|end| end.is_some_and(alphanumeric))
        && bytes
            .split(alphanumeric)
            .all(|gap| matches!(gap, b"" | b"." | b"_" | b"__") || gap.iter().all(|b| *b == b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(text: &str) -> String {
        text.parse::<Reference>().unwrap().to_string()
    }

    #[test]
    fn short_names_are_made_whole() {
        for (short, long) in [
            ("busybox", "docker.io/library/busybox:latest"),
            ("busybox:1.36", "docker.io/library/busybox:1.36"),
            ("docker.io/busybox", "docker.io/library/busybox:latest"),
            ("index.docker.io/library/busybox", "docker.io/library/busybox:latest"),
            ("a/b", "docker.io/a/b:latest"),
            ("localhost/x", "localhost/x:latest"),
            ("localhost:5000/x:Y", "localhost:5000/x:Y"),
            ("ghcr.io/a/b__c/d--e.f", "ghcr.io/a/b__c/d--e.f:latest"),
        ] {
            assert_eq!(whole(short), long);
        }
    }

    #[test]
    fn whole_names_stay_as_they_are() {
        assert_eq!(whole("docker.io/library/busybox:latest"), "docker.io/library/busybox:latest");
    }

    #[test]
    fn names_of_other_shapes_are_refused() {
        for bad in
            ["", ":", "x:", "X", "a//b", "../x", "a/../b", ".x", "x-", "a___b", "x:a/b", "a b"]
        {
            assert!(bad.parse::<Reference>().is_err(), "{bad:?}");
        }
        assert!("a".repeat(300).parse::<Reference>().is_err());
    }

    #[test]
    fn familiar_name_drops_what_docker_drops() {
        let name = |text: &str| text.parse::<Reference>().unwrap().familiar_name();
        assert_eq!(name("docker.io/library/busybox:1"), "busybox");
        assert_eq!(name("docker.io/a/b"), "a/b");
        assert_eq!(name("ghcr.io/a"), "ghcr.io/a");
    }
}
