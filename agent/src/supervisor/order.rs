//! What the host asks for, read from the spec before the actor hears of it.

use husk_protocols::id::{ContainerId, ExecId};
use oci_spec::runtime::Spec;

use super::{
    hooks::{HooksOrder, bundle},
    listener::Listener,
};
use crate::{
    cgroup::CgroupPlan,
    container::plan::{
        HookPlans, Inherited, InitPlan, Kind, ProcessPlan, StatePlan, parse_process, parse_spec,
    },
    spec::SpecError,
    stdio::Tokens,
    storage::{RootfsPlan, Upper},
};

/// A container's root, as the host names it.
#[derive(Debug)]
pub struct Rootfs<'a> {
    /// Of the EROFS image's device.
    pub image_serial: &'a str,
    /// Of the ext4 device, or the bytes of a tmpfs.
    pub upper: Result<&'a str, u64>,
}

impl Rootfs<'_> {
    fn plan(&self) -> Result<RootfsPlan, SpecError> {
        let serial = |field: &str, text: &str| {
            let reason = "is no serial of a block device";
            text.parse().map_err(|()| SpecError::invalid(field, reason))
        };
        Ok(RootfsPlan {
            image: serial("rootfs.image_serial", self.image_serial)?,
            upper: match self.upper {
                Ok(text) => Upper::Disk(serial("rootfs.disk_serial", text)?),
                Err(bytes) => Upper::Tmpfs { bytes },
            },
            // Known once its user namespace is.
            ids: None,
        })
    }
}

/// A container to create.
#[derive(Debug)]
pub struct CreateOrder {
    pub(super) id: ContainerId,
    pub(super) plan: InitPlan,
    pub(super) inherited: Inherited,
    pub(super) listener: Option<Listener>,
    pub(super) cgroup: CgroupPlan,
    /// None in a mount namespace that is joined.
    pub(super) rootfs: Option<RootfsPlan>,
    pub(super) streams: Tokens,
    /// Only where the spec has any.
    pub(super) hooks: Option<HooksOrder>,
}

impl CreateOrder {
    /// Reads a spec, and refuses what cannot be honoured.
    ///
    /// # Errors
    /// [`SpecError`].
    pub fn read(
        id: ContainerId,
        spec: &[u8],
        rootfs: Option<&Rootfs<'_>>,
        streams: Tokens,
        terminal: bool,
    ) -> Result<Self, SpecError> {
        let json = spec;
        let spec = parse_spec(json)?;
        let mut plan = InitPlan::read(&spec)?;
        agree_on_root(&plan, rootfs)?;
        let inherited = Inherited::read(spec.linux().as_ref(), &plan.process)?;
        inherited.confine(&mut plan.process);
        let hooks = hooks(&id, &spec, json)?;
        plan.hooks = hooks.as_ref().map(HooksOrder::for_stage);
        agree_on_terminal(&plan.process, streams, terminal)?;
        Ok(Self {
            cgroup: CgroupPlan::read(spec.linux().as_ref(), &id)?,
            rootfs: rootfs.map(Rootfs::plan).transpose()?,
            listener: inherited
                .listener()
                .map(|plan| Listener::new(plan, StatePlan::new(&id, &spec, &bundle(&id)))),
            inherited,
            id,
            plan,
            streams,
            hooks,
        })
    }
}

fn hooks(id: &ContainerId, spec: &Spec, json: &[u8]) -> Result<Option<HooksOrder>, SpecError> {
    let plans = HookPlans::read(spec.hooks().as_ref())?;
    Ok(plans.map(|plans| HooksOrder {
        plans,
        state: StatePlan::new(id, spec, &bundle(id)),
        config: json.to_owned(),
    }))
}

/// A process to start in a running container.
#[derive(Debug)]
pub struct ExecOrder {
    pub(super) container: ContainerId,
    pub(super) exec: ExecId,
    pub(super) process: ProcessPlan,
    pub(super) streams: Tokens,
}

impl ExecOrder {
    /// Reads `process` of a spec, and refuses what cannot be honoured.
    ///
    /// # Errors
    /// [`SpecError`].
    pub fn read(
        container: ContainerId,
        exec: ExecId,
        process: &[u8],
        streams: Tokens,
        terminal: bool,
    ) -> Result<Self, SpecError> {
        let process = parse_process(process)?;
        agree_on_terminal(&process, streams, terminal)?;
        Ok(Self { container, exec, process, streams })
    }
}

fn agree_on_root(plan: &InitPlan, rootfs: Option<&Rootfs<'_>>) -> Result<(), SpecError> {
    match (plan.is_new(Kind::Mount), rootfs) {
        (true, None) => Err(SpecError::invalid("rootfs", "is missing")),
        (false, Some(_)) => {
            let reason = "has no place in a mount namespace that is joined";
            Err(SpecError::invalid("rootfs", reason))
        }
        _ => Ok(()),
    }
}

fn agree_on_terminal(
    process: &ProcessPlan,
    streams: Tokens,
    terminal: bool,
) -> Result<(), SpecError> {
    if process.terminal.is_some() != terminal {
        return Err(SpecError::invalid("process.terminal", "does not agree with the streams"));
    }
    if terminal && (streams.stdin.is_some() || streams.stderr.is_some()) {
        return Err(SpecError::invalid("streams", "a terminal has one stream, stdout"));
    }
    Ok(())
}
