//! Files that the host brings to the guest, programs among them, and what hooks have written beside
//! them.

use std::fs;

use husk_protocols::agent::{File, SetupRequest};
use serde_json::{Value, json};

use super::{Answer, Bed, Container, images::BUSYBOX};

/// Where they lie in the guest.
pub const FILES: &str = "/run/husk/files";
/// busybox takes an applet as its first argument only under a name that begins with its own.
const PROGRAM: &str = "busybox-hook";

impl Bed {
    /// Writes a file of the host's into the guest.
    ///
    /// # Errors
    /// The agent's refusal.
    pub async fn bring(&self, name: &str, content: &[u8], mode: u32) -> Answer<()> {
        let file =
            File { name: name.to_owned(), content: content.to_owned(), mode, ..Default::default() };
        self.set_up(SetupRequest { files: vec![file], ..Default::default() }).await
    }

    /// A hook that is a shell script in the guest's root. The program comes with the first one: it
    /// cannot be written again while it runs.
    ///
    /// # Panics
    /// When the guest does not take the program.
    pub fn guest_hook(&self, script: &str) -> Value {
        self.program.get_or_init(|| self.bring_program());
        json!({"path": format!("{FILES}/{PROGRAM}"), "args": ["sh", "-c", script]})
    }

    fn bring_program(&self) {
        let program = fs::read(BUSYBOX).expect("busybox-static is installed");
        self.block_on(self.bring(PROGRAM, &program, 0o755)).expect("the guest takes the program");
    }

    /// What is in a file of that folder.
    ///
    /// # Panics
    /// When it is not there.
    pub fn written(&self, name: &str) -> String {
        let ended = self.run(&with_files(Container::new(&["cat", &format!("/files/{name}")])));
        let ended = ended.expect("the container runs");
        assert_eq!(ended.code, 0, "{ended:?}");
        ended.stdout
    }
}

/// A container that has the folder at `/files`.
#[must_use]
pub fn with_files(container: Container) -> Container {
    container.mount(json!({"destination": "/files", "source": FILES, "options": ["bind"]}))
}
