//! Calls on containers that are there: pause, resume, update, stats, events.

use std::time::Duration;

use husk_protocols::agent::{self, State};
use serde_json::Value;
use ttrpc::context::with_duration;

use super::{Answer, Bed, Container, DEADLINE, deadline};

impl Bed {
    /// Creates and starts a container whose output nobody reads. Returns its id.
    ///
    /// # Panics
    /// When the VM is gone.
    pub async fn launch(&self, container: &Container) -> Answer<String> {
        let stdio = self.open_stdio(false).await.expect("the VM runs");
        self.create(container, &stdio).await?;
        self.start(&container.id).await?;
        Ok(container.id.clone())
    }

    /// Kills a container, if it runs, and deletes it.
    ///
    /// # Errors
    /// The agent's refusal.
    pub async fn remove(&self, id: &str) -> Answer<()> {
        // One that has ended already.
        let _ = self.signal(id, "", 9, true).await;
        self.wait(id, "").await?;
        self.delete(id).await
    }

    /// The state that `Containers.List` shows.
    ///
    /// # Errors
    /// The agent's refusal.
    pub async fn state(&self, id: &str) -> Answer<Option<State>> {
        let list = self.containers.list(deadline(), &agent::Empty::default()).await?;
        let mut containers = list.containers.into_iter();
        let found = containers.find(|container| container.id == id);
        Ok(found.and_then(|container| container.state.enum_value().ok()))
    }

    /// `Containers.Pause`.
    ///
    /// # Errors
    /// The agent's refusal.
    pub async fn pause(&self, id: &str) -> Answer<()> {
        let request = agent::PauseRequest { id: id.to_owned(), ..Default::default() };
        self.containers.pause(deadline(), &request).await?;
        Ok(())
    }

    /// `Containers.Resume`.
    ///
    /// # Errors
    /// The agent's refusal.
    pub async fn resume(&self, id: &str) -> Answer<()> {
        let request = agent::ResumeRequest { id: id.to_owned(), ..Default::default() };
        self.containers.resume(deadline(), &request).await?;
        Ok(())
    }

    /// `Containers.Update`.
    ///
    /// # Errors
    /// The agent's refusal.
    pub async fn update(&self, id: &str, resources: &Value) -> Answer<()> {
        let request = agent::UpdateRequest {
            id: id.to_owned(),
            resources: resources.to_string().into_bytes(),
            ..Default::default()
        };
        self.containers.update(deadline(), &request).await?;
        Ok(())
    }

    /// `Containers.Stats`.
    ///
    /// # Errors
    /// The agent's refusal.
    pub async fn stats(&self, id: &str) -> Answer<agent::StatsResponse> {
        let request = agent::StatsRequest { id: id.to_owned(), ..Default::default() };
        Ok(self.containers.stats(deadline(), &request).await?)
    }

    /// `Processes.Top`.
    ///
    /// # Errors
    /// The agent's refusal.
    pub async fn top(&self, id: &str) -> Answer<Vec<agent::ProcessStatus>> {
        let request = agent::TopRequest { container_id: id.to_owned(), ..Default::default() };
        Ok(self.processes.top(deadline(), &request).await?.processes)
    }

    /// `Containers.Events`.
    ///
    /// # Errors
    /// The agent's refusal.
    pub async fn events(
        &self,
        after: u64,
        limit: u32,
        wait: Duration,
    ) -> Answer<agent::EventsResponse> {
        let wait_ms = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX);
        let request = agent::EventsRequest { after, limit, wait_ms, ..Default::default() };
        Ok(self.containers.events(with_duration(DEADLINE + wait), &request).await?)
    }
}
