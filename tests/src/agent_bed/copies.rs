//! Files of containers, in and out.

use husk_protocols::agent;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Answer, Bed, deadline};

impl Bed {
    /// `Files.Stat`.
    ///
    /// # Errors
    /// The agent's refusal.
    pub async fn stat(&self, id: &str, path: &str) -> Answer<agent::StatResponse> {
        let request = agent::StatRequest {
            container_id: id.to_owned(),
            path: path.to_owned(),
            ..Default::default()
        };
        Ok(self.files.stat(deadline(), &request).await?)
    }

    /// A request for `Files.CopyOut`.
    #[must_use]
    pub fn out_request(id: &str, path: &str, stream: u64) -> agent::CopyOutRequest {
        agent::CopyOutRequest {
            container_id: id.to_owned(),
            path: path.to_owned(),
            stream,
            ..Default::default()
        }
    }

    /// `Files.CopyOut` to a stream that is open.
    ///
    /// # Errors
    /// The agent's refusal.
    pub async fn copy_out_to(&self, request: &agent::CopyOutRequest) -> Answer<u64> {
        Ok(self.files.copy_out(deadline(), request).await?.entries)
    }

    /// `Files.CopyOut`: the archive.
    ///
    /// # Errors
    /// The agent's refusal.
    pub async fn copy_out(&self, id: &str, path: &str) -> Answer<Vec<u8>> {
        let (token, mut stream) = self.open().await.expect("the VM runs");
        let mut archive = Vec::new();
        let request = Self::out_request(id, path, token);
        // The stream of a call that was refused is nobody's.
        let read = async {
            stream.read_to_end(&mut archive).await.expect("the stream ends");
            Ok(())
        };
        tokio::try_join!(self.copy_out_to(&request), read)?;
        Ok(archive)
    }

    /// `Files.CopyIn`: entries and bytes. With owners as in the archive where none is given.
    ///
    /// # Errors
    /// The agent's refusal.
    pub async fn copy_in(
        &self,
        id: &str,
        path: &str,
        archive: &[u8],
        owner: Option<(u32, u32)>,
    ) -> Answer<(u64, u64)> {
        let (token, mut stream) = self.open().await.expect("the VM runs");
        let (uid, gid) = owner.unwrap_or_default();
        let request = agent::CopyInRequest {
            container_id: id.to_owned(),
            path: path.to_owned(),
            stream: token,
            keep_owner: owner.is_none(),
            uid,
            gid,
            ..Default::default()
        };
        let write = async {
            // An agent that has refused does not read the rest.
            let _ = stream.write_all(archive).await;
            let _ = stream.shutdown().await;
        };
        let (answer, ()) = tokio::join!(self.files.copy_in(deadline(), &request), write);
        let response = answer?;
        Ok((response.entries, response.bytes))
    }
}
