//! Ids, validated once, where they enter. Inside, a value of the type is safe as a path component,
//! a cgroup name and a log field.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Longest id, in bytes. A sha256 in hex has 64; Kubernetes' exec ids stay below this too.
pub const MAX_ID_LEN: usize = 128;

/// Why a text is no id.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum IdError {
    /// Nothing there, or more than [`MAX_ID_LEN`] bytes.
    #[error("id {0:?}: must have 1 to {MAX_ID_LEN} bytes")]
    Length(String),
    /// A byte that is not allowed, or not at the start.
    #[error("id {0:?}: only [a-zA-Z0-9][a-zA-Z0-9_.-]* is allowed")]
    Character(String),
}

fn validate(text: &str) -> Result<(), IdError> {
    if text.is_empty() || text.len() > MAX_ID_LEN {
        return Err(IdError::Length(text.chars().take(MAX_ID_LEN).collect()));
    }
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    if text.as_bytes()[0].is_ascii_alphanumeric() && text.bytes().all(allowed) {
        Ok(())
    } else {
        Err(IdError::Character(text.to_owned()))
    }
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The id as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                validate(text)?;
                Ok(Self(text.to_owned()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                validate(&text)?;
                Ok(Self(text))
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

id! {
    /// Names a container within a sandbox, and on the host.
    ContainerId
}
id! {
    /// Names a further process within its container.
    ExecId
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn id_that_would_be_a_path_is_refused() {
        for bad in ["", ".", "..", "a/b", "/", "-rf", "_x", "a b", "a\0b", "ä", &"x".repeat(129)] {
            assert!(bad.parse::<ContainerId>().is_err(), "{bad:?}");
        }
        assert!("web-1.2_x".parse::<ContainerId>().is_ok());
    }

    proptest! {
        #[test]
        fn every_accepted_id_is_one_plain_path_component(text in ".{0,140}") {
            if let Ok(id) = text.parse::<ExecId>() {
                prop_assert_eq!(id.as_str(), &text);
                let mut parts = std::path::Path::new(&text).components();
                prop_assert!(matches!(parts.next(), Some(std::path::Component::Normal(_))));
                prop_assert!(parts.next().is_none());
            }
        }

        #[test]
        fn every_id_of_the_allowed_shape_is_accepted(text in "[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}") {
            let id: ContainerId = text.parse().unwrap();
            prop_assert_eq!(id.to_string(), text.clone());
            // By every door the same.
            prop_assert_eq!(&ContainerId::try_from(text.clone()).unwrap(), &id);
            prop_assert_eq!(String::from(id), text);
        }

        #[test]
        fn one_byte_that_is_not_allowed_spoils_an_id(
            before in "[a-zA-Z0-9][a-zA-Z0-9_.-]{0,40}",
            byte in "[^a-zA-Z0-9_.-]",
            after in "[a-zA-Z0-9_.-]{0,40}",
        ) {
            let text = format!("{before}{byte}{after}");
            prop_assert_eq!(text.parse::<ExecId>(), Err(IdError::Character(text)));
        }

        #[test]
        fn length_decides_at_the_limit(length in MAX_ID_LEN - 2..MAX_ID_LEN + 3) {
            let text = "x".repeat(length);
            prop_assert_eq!(text.parse::<ExecId>().is_ok(), length <= MAX_ID_LEN);
        }

        #[test]
        fn refusal_of_a_long_text_is_short(text in ".{200,2000}") {
            let refused = text.parse::<ContainerId>().unwrap_err();
            // Escaped, a character takes up to ten.
            prop_assert!(refused.to_string().len() < 100 + 10 * MAX_ID_LEN);
        }
    }
}
