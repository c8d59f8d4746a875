//! Landlock: rights that are handled and granted nowhere. landlock(7). Holds for all threads that
//! are started afterwards.

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, LandlockStatus, RestrictionStatus,
    Ruleset, RulesetAttr, RulesetError, RulesetStatus, Scope,
};

use super::Layer;

/// The newest interface whose rights were looked at. Older kernels give what they have.
const NEWEST: ABI = ABI::V7;
/// Since when files are covered and with all rights, TCP, and signals and abstract sockets.
/// landlock(7), VERSIONS.
const FILES: ABI = ABI::V1;
const ALL_FILES: ABI = ABI::V5;
const NETWORK: ABI = ABI::V4;
const SCOPES: ABI = ABI::V6;

/// Gives up files, TCP and scopes.
pub fn restrict() -> (Layer, Layer, Layer) {
    match apply() {
        Ok(status) => {
            let layer = |since| judge(&status, since);
            let files = match (layer(FILES), layer(ALL_FILES)) {
                (Layer::Holds, Layer::Holds) => Layer::Holds,
                (Layer::Holds, _) => Layer::Partly {
                    reason: "an older kernel, which does not know all rights".into(),
                },
                (missing, _) => missing,
            };
            (files, layer(NETWORK), layer(SCOPES))
        }
        Err(error) => {
            let layer = Layer::missing("landlock", &error);
            (layer.clone(), layer.clone(), layer)
        }
    }
}

fn apply() -> Result<RestrictionStatus, RulesetError> {
    Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?
        .create()?
        .restrict_self()
}

/// Whether what came with the interface `since` is enforced.
fn judge(status: &RestrictionStatus, since: ABI) -> Layer {
    let reason = match status.landlock {
        LandlockStatus::NotEnabled => "landlock is not enabled on this host",
        LandlockStatus::NotImplemented => "this kernel has no landlock",
        LandlockStatus::Available { effective_abi, .. }
            if effective_abi >= since && status.ruleset != RulesetStatus::NotEnforced =>
        {
            return Layer::Holds;
        }
        LandlockStatus::Available { .. } => "the kernel is too old",
    };
    Layer::Missing { reason: reason.into() }
}
