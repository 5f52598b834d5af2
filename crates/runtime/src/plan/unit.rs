//! `linux.cgroupsPath` as systemd's driver reads it, and the annotations `org.systemd.property.*`, as runc has them
//! (docs/systemd.md there).
//!
//! ```text
//! "org.systemd.property.TimeoutStopUSec": "uint64 123456789"
//! "org.systemd.property.CollectMode":     "'inactive-or-failed'"
//! ```

use hull_kernel::cgroups::systemd::{Bus, Property, UnitPlace};
use hull_oci::runtime::{Linux, Spec};

use super::limits::checked_limits;
use super::{CgroupPlan, PlanError, UnitPlan};

/// What the names of annotations begin with that set properties.
pub(crate) const PROPERTY_ANNOTATION: &str = "org.systemd.property.";

/// The unit that systemd is to make, with its limits.
pub(super) fn plan(spec: &Spec, linux: &Linux, id: &str) -> Result<CgroupPlan, PlanError> {
    let place = UnitPlace::parse(linux.cgroups_path.as_deref(), id, Bus::of_caller())
        .map_err(|error| PlanError::invalid("linux.cgroupsPath", error.to_string()))?;
    let mut properties = Vec::new();
    for (key, value) in &spec.annotations {
        if let Some(name) = key.strip_prefix(PROPERTY_ANNOTATION) {
            let property = Property::parse(name, value)
                .map_err(|error| PlanError::invalid(format!("annotations[{key}]"), error.to_string()))?;
            properties.push(property);
        }
    }
    let limits = checked_limits(linux)?;
    let (path, unit) = (place.path.clone(), Some(UnitPlan { place, properties }));
    Ok(CgroupPlan { path, limits, unit, owner: None, optional: false })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(annotation: (&str, &str)) -> Result<CgroupPlan, PlanError> {
        let annotations = [(annotation.0.to_owned(), annotation.1.to_owned())].into();
        plan(&Spec { annotations, ..Spec::default() }, &Linux::default(), "box")
    }

    #[test]
    fn annotations_become_properties_and_nothing_else_does() {
        let unit = |annotation| planned(annotation).unwrap_or_else(|error| panic!("{error}")).unit.unwrap();
        let stop = unit(("org.systemd.property.TimeoutStopSec", "uint64 3"));
        assert_eq!(stop.place.unit.name, "runc-box.scope");
        assert_eq!(stop.properties, [Property::parse("TimeoutStopUSec", "uint64 3000000").unwrap()]);
        assert!(unit(("org.example.property.X", "not a value")).properties.is_empty());
    }

    #[test]
    fn a_bad_annotation_is_refused_by_its_name() {
        for (name, value) in [("TasksMax", "uint64"), ("x", "1"), ("Tasks-Max", "1"), ("TimeoutStopSec", "'soon'")] {
            let key = format!("org.systemd.property.{name}");
            let Err(error) = planned((&key, value)) else { panic!("{key}={value} was taken") };
            assert!(error.to_string().contains(&key), "{error}");
        }
    }

    #[test]
    fn a_path_of_files_is_refused_by_its_name() {
        let linux = Linux { cgroups_path: Some("/a/b".to_owned()), ..Linux::default() };
        let Err(error) = plan(&Spec::default(), &linux, "box") else { panic!("it was taken") };
        assert!(error.to_string().contains("linux.cgroupsPath"), "{error}");
    }
}
