//! What holds of the jail, for statistics and for people.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How one layer stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum Layer {
    /// It holds.
    Holds,
    /// Some of it holds.
    Partly {
        /// What is missing and why, for people.
        reason: String,
    },
    /// This host does not offer it.
    Missing {
        /// Why, for people.
        reason: String,
    },
}

impl Layer {
    /// A layer of which `what` was refused.
    pub(super) fn missing(what: &str, error: &dyn fmt::Display) -> Self {
        Self::Missing { reason: format!("{what}: {error}") }
    }

    /// Whether all of it holds.
    #[must_use]
    pub fn holds(&self) -> bool {
        *self == Self::Holds
    }
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Holds => f.write_str("yes"),
            Self::Partly { reason } => write!(f, "partly: {reason}"),
            Self::Missing { reason } => write!(f, "no: {reason}"),
        }
    }
}

/// The layers that hosts may lack. The others hold wherever there is a report: closed descriptors,
/// `no_new_privs`, no core dumps, no tracing; and the filters of system calls once they are
/// installed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// Namespaces of its own: mounts, network, IPC, host name, cgroups; of users, where they are
    /// needed for the others.
    pub namespaces: Layer,
    /// The root is an empty folder.
    pub root: Layer,
    /// Another user than root, shared with no other VM of root's. Holds for who is not root.
    pub user: Layer,
    /// No capabilities, in no set.
    pub capabilities: Layer,
    /// Landlock: no files.
    pub files: Layer,
    /// Landlock: no TCP.
    pub network: Layer,
    /// Landlock: no signals to other processes, no abstract Unix sockets of theirs.
    pub scopes: Layer,
}

impl Report {
    /// The layers by name, in the order in which they are entered.
    #[must_use]
    pub fn layers(&self) -> [(&'static str, &Layer); 7] {
        [
            ("namespaces", &self.namespaces),
            ("root", &self.root),
            ("user", &self.user),
            ("capabilities", &self.capabilities),
            ("files", &self.files),
            ("network", &self.network),
            ("scopes", &self.scopes),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_names_each_layer_once_and_survives_json() {
        let report = Report {
            namespaces: Layer::missing("unshare", &"Operation not permitted"),
            root: Layer::Holds,
            user: Layer::Holds,
            capabilities: Layer::Partly { reason: "bounding".into() },
            files: Layer::Holds,
            network: Layer::Holds,
            scopes: Layer::Holds,
        };
        let json = serde_json::to_value(&report).unwrap();
        for (name, layer) in report.layers() {
            assert_eq!(json[name], serde_json::to_value(layer).unwrap());
        }
        assert_eq!(json.as_object().unwrap().len(), report.layers().len());
        assert_eq!(serde_json::from_value::<Report>(json).unwrap(), report);
        assert_eq!(report.namespaces.to_string(), "no: unshare: Operation not permitted");
    }
}
