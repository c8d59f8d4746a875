//! What changes a container that is there: pause, resume, update, rename; and what it uses.

use super::control::{Event, Request};
use super::create::{check_name, check_resources};
use super::error::Error;
use super::record::{Phase, Resources};
use super::store::Container;
use super::{Engine, wrong_phase};
use crate::guest::{ProcessInfo, Usage};

/// docker's words.
const SAME_NAME: &str = "renaming a container with the same name as its current name";

impl Engine {
    /// Stops a running container's processes where they are.
    ///
    /// # Errors
    /// [`Error::WrongPhase`], the monitor's, and those of the connection.
    pub fn pause(&self, container: &Container) -> Result<(), Error> {
        require_running(container)?;
        if container.status.paused {
            return Err(phase(container, "already paused", ""));
        }
        self.ask(container, &Request::Pause)
    }

    /// Lets them go on.
    ///
    /// # Errors
    /// As [`Engine::pause`].
    pub fn unpause(&self, container: &Container) -> Result<(), Error> {
        require_running(container)?;
        if !container.status.paused {
            return Err(phase(container, "not paused", ""));
        }
        self.ask(container, &Request::Resume)
    }

    /// Changes limits: at once where the container runs, and for its next runs.
    ///
    /// # Errors
    /// [`Error::Invalid`] for what makes no sense; the monitor's, for what the running machine
    /// cannot give among others; those of the connection.
    pub fn update(
        &self,
        container: &Container,
        change: impl FnOnce(&mut Resources),
    ) -> Result<(), Error> {
        let mut resources = container.config.resources.clone();
        change(&mut resources);
        check_resources(&resources)?;
        if container.status.is_live() {
            require_running(container)?;
            self.ask(container, &Request::Update(Box::new(resources.clone())))?;
        }
        self.containers.change(&container.config.id, |config, _| {
            config.resources = resources;
            Ok(())
        })
    }

    /// Gives a container another name.
    ///
    /// # Errors
    /// [`Error::Invalid`], [`Error::NameInUse`], [`Error::File`].
    pub fn rename(&self, container: &Container, name: &str) -> Result<(), Error> {
        check_name(name)?;
        if container.config.name == name {
            return Err(Error::Invalid(SAME_NAME.to_owned()));
        }
        self.containers.change(&container.config.id, |config, others| {
            if let Some(owner) = others.iter().find(|other| other.name == name) {
                let id = super::store::short(&owner.id).to_owned();
                return Err(Error::NameInUse { name: name.to_owned(), id });
            }
            name.clone_into(&mut config.name);
            Ok(())
        })
    }

    /// What a running container has used.
    ///
    /// # Errors
    /// [`Error::WrongPhase`], the monitor's, and those of the connection.
    pub fn usage(&self, container: &Container) -> Result<Usage, Error> {
        require_running(container)?;
        let mut session = self.connect(container)?;
        session.request(&Request::Usage)?;
        loop {
            if let Event::Usage(usage) = session.event()? {
                return Ok(usage);
            }
        }
    }

    /// The processes of a running container.
    ///
    /// # Errors
    /// As [`Engine::usage`].
    pub fn processes(&self, container: &Container) -> Result<Vec<ProcessInfo>, Error> {
        require_running(container)?;
        let mut session = self.connect(container)?;
        session.request(&Request::Processes)?;
        loop {
            if let Event::Processes(processes) = session.event()? {
                return Ok(processes);
            }
        }
    }

    fn ask(&self, container: &Container, request: &Request) -> Result<(), Error> {
        let mut session = self.connect(container)?;
        session.request(request)?;
        session.done()
    }
}

fn require_running(container: &Container) -> Result<(), Error> {
    if container.status.phase == Phase::Running {
        Ok(())
    } else {
        Err(wrong_phase(container, " (start it with husk start)"))
    }
}

fn phase(container: &Container, phase: &'static str, hint: &'static str) -> Error {
    Error::WrongPhase { name: container.config.name.clone(), phase, hint }
}
