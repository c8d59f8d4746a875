//! Why an OCI spec is refused. Every room that reads a part of the spec says it with this type,
//! with the field's full name; none ignores a field that it does not do.

use husk_protocols::error::ErrorKind;

/// A spec, or a part of it, that cannot be honoured.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SpecError {
    /// Not JSON, or not of the spec's shape.
    #[error("read the spec: {0}")]
    Json(String),
    /// The field makes no sense.
    #[error("{field}: {reason}")]
    Invalid {
        /// Its full name.
        field: String,
        /// In which way.
        reason: String,
    },
    /// The field asks for what this agent does not do.
    #[error("{field} is not supported")]
    Unsupported {
        /// Its full name.
        field: String,
    },
    /// The field asks for what the guest kernel was built without.
    #[error("{field} needs {option}, which the guest kernel does not have")]
    Kernel {
        /// Its full name.
        field: &'static str,
        /// The kernel's option.
        option: &'static str,
    },
    /// The sysctl is not a container's own.
    #[error("linux.sysctl: {0} is not namespaced: use --guest-sysctl")]
    GuestSysctl(String),
}

impl SpecError {
    /// A field that makes no sense.
    pub fn invalid(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Invalid { field: field.into(), reason: reason.into() }
    }

    /// A field that is not done.
    pub fn unsupported(field: impl Into<String>) -> Self {
        Self::Unsupported { field: field.into() }
    }

    /// What the host is told.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Json(_) | Self::Invalid { .. } => ErrorKind::Invalid,
            Self::Unsupported { .. } | Self::Kernel { .. } | Self::GuestSysctl(_) => {
                ErrorKind::Unsupported
            }
        }
    }
}

/// Refuses the first field of a table that is present: name, and whether it is there.
///
/// # Errors
/// [`SpecError::Unsupported`] with the name.
pub fn refuse(prefix: &str, fields: &[(&str, bool)]) -> Result<(), SpecError> {
    match fields.iter().find(|(_, present)| *present) {
        Some((name, _)) => Err(SpecError::unsupported(format!("{prefix}{name}"))),
        None => Ok(()),
    }
}

/// Whether an optional list has anything in it.
#[must_use]
pub fn has<T>(list: &Option<Vec<T>>) -> bool {
    list.as_ref().is_some_and(|list| !list.is_empty())
}

/// Whether an optional text says anything.
#[must_use]
pub fn says(text: &Option<String>) -> bool {
    text.as_ref().is_some_and(|text| !text.is_empty())
}
