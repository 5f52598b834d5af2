//! Fields of config.json that the specification has and this runtime does not honour yet: each refused by name.

use hull_oci::runtime::Spec;

use super::PlanError;

/// Refuses the first field that asks for something this runtime does not do.
///
/// # Errors
/// [`PlanError::Unsupported`] with the field's path.
pub(super) fn refuse(spec: &Spec) -> Result<(), PlanError> {
    match &spec.linux {
        Some(linux) if !linux.net_devices.is_empty() => Err(PlanError::unsupported("linux.netDevices", "")),
        _ => Ok(()),
    }
}
