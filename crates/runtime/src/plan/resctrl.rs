//! `linux.intelRdt`: which class of service the container's processes are in, and how it is to be
//! (config-linux.md, "IntelRdt").
//!
//! The class is named `closID`, else as the container; `/` is the one that every process of the machine begins in. With
//! `enableMonitoring` there is a monitoring group named as the container in it. A class named as the container ends with
//! it, as the monitoring group does; another stays. Who has asked for nothing touches no resctrl.

use hull_kernel::resctrl::{Class, Resctrl};
use hull_oci::runtime::{Linux, LinuxIntelRdt};

use super::PlanError;

/// The class of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResctrlPlan {
    /// Where it is.
    pub resctrl: Resctrl,
    /// What it is.
    pub class: Class,
}

impl ResctrlPlan {
    /// Names the class and the monitoring group that are named as the container.
    pub(super) fn set_id(&mut self, id: &str) {
        if !self.class.shared {
            self.class.name = id.to_owned();
        }
        if let Some(name) = &mut self.class.monitored_as {
            *name = id.to_owned();
        }
    }

    /// For one more process of the container: the class is there and stays as it is.
    pub(crate) fn of_exec(linux: &Linux, id: &str) -> Result<Option<ResctrlPlan>, PlanError> {
        let Some(mut plan) = plan(linux)? else { return Ok(None) };
        plan.set_id(id);
        plan.class.schemata.clear();
        plan.class.shared = true;
        Ok(Some(plan))
    }
}

/// Reads the section.
///
/// # Errors
/// A field that makes no sense; [`PlanError::Unsupported`] where no resctrl is mounted.
pub(super) fn plan(linux: &Linux) -> Result<Option<ResctrlPlan>, PlanError> {
    let Some(rdt) = &linux.intel_rdt else { return Ok(None) };
    let class = class(rdt)?;
    match Resctrl::find() {
        Some(resctrl) => Ok(Some(ResctrlPlan { resctrl, class })),
        None => Err(PlanError::unsupported("linux.intelRdt", "no resctrl file system is mounted on this machine")),
    }
}

fn class(rdt: &LinuxIntelRdt) -> Result<Class, PlanError> {
    let name = rdt.clos_id.as_deref().unwrap_or_default();
    let is_name = name == "/" || (name != "." && name != ".." && !name.contains(['/', '\n', '\0']));
    if !is_name {
        return Err(PlanError::invalid("linux.intelRdt.closID", format!("{name:?} is no name")));
    }
    if let Some(index) = rdt.schemata.iter().position(|line| line.contains('\n')) {
        return Err(PlanError::invalid(format!("linux.intelRdt.schemata[{index}]"), "is more than one line"));
    }
    let cache = rdt.l3_cache_schema.as_deref().filter(|schema| !schema.is_empty());
    let bandwidth = rdt.mem_bw_schema.as_deref().filter(|schema| !schema.is_empty());
    if let Some(schema) = bandwidth.filter(|schema| !schema.starts_with("MB:") || schema.contains('\n')) {
        return Err(PlanError::invalid("linux.intelRdt.memBwSchema", format!("{schema:?} is no line that begins MB:")));
    }
    // Of the two that speak of bandwidth the one that is for it counts.
    let is_other = |line: &&str| bandwidth.is_none() || !line.trim_start().starts_with("MB:");
    let lines: Vec<&str> = cache.into_iter().flat_map(str::lines).filter(is_other).chain(bandwidth).collect();
    let mut schemata: Vec<String> = Vec::new();
    for lines in [lines.join("\n"), rdt.schemata.join("\n")] {
        if !lines.is_empty() {
            schemata.push(lines);
        }
    }
    Ok(Class {
        name: name.trim_start_matches('/').to_owned(),
        shared: !name.is_empty(),
        schemata,
        monitored_as: rdt.enable_monitoring.unwrap_or(false).then(String::new),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Class, PlanError> {
        class(&serde_json::from_str(json).unwrap())
    }

    #[test]
    fn lines_are_put_together_as_the_specification_says() {
        let class = read(
            r#"{"closID":"gold","l3CacheSchema":"L3:0=f\nMB:0=90","memBwSchema":"MB:0=20",
                "schemata":["L2:0=3","MB:1=70"],"enableMonitoring":true}"#,
        )
        .unwrap();
        assert_eq!((class.name.as_str(), class.shared), ("gold", true));
        assert_eq!(class.schemata, ["L3:0=f\nMB:0=20", "L2:0=3\nMB:1=70"]);
        assert_eq!(read(r#"{"l3CacheSchema":"L3:0=f\nMB:0=90"}"#).unwrap().schemata, ["L3:0=f\nMB:0=90"]);
        assert_eq!(read("{}").unwrap(), Class::default());
        let root = read(r#"{"closID":"/"}"#).unwrap();
        assert_eq!((root.name.as_str(), root.shared), ("", true));
    }

    #[test]
    fn a_class_without_a_name_is_named_as_the_container() {
        let mut plan = ResctrlPlan {
            resctrl: Resctrl::at("/sys/fs/resctrl"),
            class: read(r#"{"schemata":["L3:0=f"],"enableMonitoring":true}"#).unwrap(),
        };
        plan.set_id("box");
        assert_eq!((plan.class.name.as_str(), plan.class.monitored_as.as_deref()), ("box", Some("box")));
        plan.class = read(r#"{"closID":"gold","enableMonitoring":true}"#).unwrap();
        plan.set_id("box");
        assert_eq!((plan.class.name.as_str(), plan.class.monitored_as.as_deref()), ("gold", Some("box")));
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_its_field() {
        for (json, reason) in [
            (r#"{"closID":".."}"#, "linux.intelRdt.closID: \"..\" is no name"),
            (r#"{"closID":"a/b"}"#, "linux.intelRdt.closID"),
            (r#"{"memBwSchema":"L3:0=f"}"#, "linux.intelRdt.memBwSchema"),
            (r#"{"schemata":["a","b\nc"]}"#, "linux.intelRdt.schemata[1]: is more than one line"),
        ] {
            assert!(read(json).unwrap_err().to_string().contains(reason), "{json}");
        }
    }

    #[test]
    fn without_resctrl_the_section_is_refused_by_its_name() {
        let linux = Linux { intel_rdt: Some(LinuxIntelRdt::default()), ..Linux::default() };
        match plan(&linux) {
            Ok(plan) => assert!(Resctrl::find().is_some() && plan.is_some()),
            Err(error) => assert!(error.to_string().contains("linux.intelRdt is not supported: no resctrl"), "{error}"),
        }
        assert_eq!(plan(&Linux::default()).unwrap(), None);
    }
}
