//! Calls of the agent about a container's files: look at one, copy as tar streams.

use husk_protocols::agent as wire;
use husk_protocols::error::ErrorKind;
use husk_protocols::id::ContainerId;
use husk_protocols::stream::StreamToken;
use serde::{Deserialize, Serialize};
use ttrpc::context::with_duration;

use super::{Agent, AgentError, NO_DEADLINE};

/// What a path in a container leads to; a symbolic link as its last part is not followed. Not to be
/// trusted further than its guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileStatus {
    /// With the type, as in stat(2).
    pub mode: u32,
    /// Of a symbolic link.
    pub link_target: String,
}

impl Agent {
    /// Looks at a file of a container; `None` when there is none.
    ///
    /// # Errors
    /// [`AgentError`].
    pub async fn file_status(
        &self,
        id: &ContainerId,
        path: &str,
    ) -> Result<Option<FileStatus>, AgentError> {
        let request = wire::StatRequest {
            container_id: id.to_string(),
            path: path.to_owned(),
            ..Default::default()
        };
        match self.files.stat(self.call(), &request).await.map_err(AgentError::from) {
            Ok(status) => {
                Ok(Some(FileStatus { mode: status.mode, link_target: status.link_target }))
            }
            Err(error) if error.kind == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes a file, or a folder with all below it, to `stream` as tar. Returns after the last
    /// byte.
    ///
    /// # Errors
    /// [`AgentError`], also when nobody reads.
    pub async fn copy_out(
        &self,
        id: &ContainerId,
        path: &str,
        stream: StreamToken,
    ) -> Result<(), AgentError> {
        let request = wire::CopyOutRequest {
            container_id: id.to_string(),
            path: path.to_owned(),
            stream: stream.get(),
            ..Default::default()
        };
        self.files.copy_out(with_duration(NO_DEADLINE), &request).await?;
        Ok(())
    }

    /// Extracts the tar archive on `stream` below a folder. All is root's, unless the archive's
    /// owners are kept. What was extracted before an error stays.
    ///
    /// # Errors
    /// [`AgentError`].
    pub async fn copy_in(
        &self,
        id: &ContainerId,
        path: &str,
        stream: StreamToken,
        keep_owner: bool,
    ) -> Result<(), AgentError> {
        let request = wire::CopyInRequest {
            container_id: id.to_string(),
            path: path.to_owned(),
            stream: stream.get(),
            keep_owner,
            ..Default::default()
        };
        self.files.copy_in(with_duration(NO_DEADLINE), &request).await?;
        Ok(())
    }
}
