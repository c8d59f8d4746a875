//! Namespaces of a spec, and containers that stay up for others to join.

use serde_json::{Value, json};
use tokio::io::AsyncReadExt;

use super::{Answer, Bed, Container, Stdio};

/// Where the maps of [`Container::user_namespace`] begin in the guest.
pub const FIRST_ID: u32 = 100_000;
/// And how many ids they have.
pub const IDS: u32 = 65_536;

impl Container {
    fn kinds(&mut self) -> &mut Vec<Value> {
        self.spec["linux"]["namespaces"].as_array_mut().expect("the spec has namespaces")
    }

    /// With the guest's own.
    #[must_use]
    pub fn without_namespace(mut self, kind: &str) -> Self {
        self.kinds().retain(|namespace| namespace["type"] != kind);
        self
    }

    /// With a new one.
    #[must_use]
    pub fn namespace(self, kind: &str) -> Self {
        let mut new = self.without_namespace(kind);
        new.kinds().push(json!({"type": kind}));
        new
    }

    /// With the one at this path.
    #[must_use]
    pub fn joining_path(self, kind: &str, path: &str) -> Self {
        let mut joined = self.without_namespace(kind);
        joined.kinds().push(json!({"type": kind, "path": path}));
        joined
    }

    /// With that of another container.
    #[must_use]
    pub fn joining(self, kind: &str, other: &Self) -> Self {
        let file = match kind {
            "mount" => "mnt",
            "network" => "net",
            other => other,
        };
        self.joining_path(kind, &format!("/run/husk/containers/{}/ns/{file}", other.id))
    }

    /// In a new user namespace of [`IDS`] ids from [`FIRST_ID`] on.
    #[must_use]
    pub fn user_namespace(self) -> Self {
        let map = json!([{"containerID": 0, "hostID": FIRST_ID, "size": IDS}]);
        self.namespace("user")
            .with("/linux/uidMappings", map.clone())
            .with("/linux/gidMappings", map)
    }

    /// With the root and mounts of the mount namespace that it joins.
    #[must_use]
    pub fn without_root(mut self) -> Self {
        self.rootfs = false;
        self.spec["mounts"] = json!([]);
        self.spec["linux"]["maskedPaths"] = json!([]);
        self.spec["linux"]["readonlyPaths"] = json!([]);
        self
    }
}

impl Bed {
    /// Creates and starts a container, and waits until it says `ready`. Its output is to be held.
    ///
    /// # Errors
    /// The agent's refusal.
    ///
    /// # Panics
    /// When it says something else.
    pub async fn up(&self, container: &Container) -> Answer<Stdio> {
        let mut stdio = self.open_stdio(false).await.expect("the VM runs");
        self.create(container, &stdio).await?;
        self.start(&container.id).await?;
        let mut word = [0; 6];
        let stdout = stdio.stdout.as_mut().expect("a container has an output");
        let read = stdout.read_exact(&mut word).await;
        assert!(read.is_ok() && &word == b"ready\n", "{read:?} {word:?}");
        Ok(stdio)
    }

    /// Kills a container that may have ended, and deletes it.
    ///
    /// # Panics
    /// When it cannot be deleted.
    pub async fn down(&self, container: &Container) {
        let _ = self.signal(&container.id, "", 9, true).await;
        self.wait(&container.id, "").await.expect("the container is there");
        self.delete(&container.id).await.expect("a container that has ended is deleted");
    }

    /// What a script in a container's own process says, which must succeed.
    ///
    /// # Panics
    /// When it does not.
    pub async fn said_by_exec(&self, container: &Container, script: &str) -> String {
        let process = super::process(&["sh", "-c", script]);
        let ended = self.run_exec(&container.id, &process).await.expect("the exec runs");
        assert_eq!((ended.code, ended.stderr.as_str()), (0, ""), "{ended:?}");
        ended.stdout
    }
}
