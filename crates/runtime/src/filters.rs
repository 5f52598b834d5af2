//! Compiled seccomp filters, kept from one container to the next: engines give all of theirs the same profile.
//!
//! ```text
//! <folder>/<digest>     one profile: which Hull compiled it, the profile as JSON, and the program
//! ```
//!
//! A digest only finds a file; what counts is that the profile in it is the same, byte for byte, and that this version
//! of Hull wrote it. A file is written under another name and renamed. What cannot be read or written is compiled as
//! if there were no folder, which must be its owner's alone.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use hull_kernel::seccomp::Program;
use hull_oci::runtime::LinuxSeccomp;

use crate::plan::PlanError;

/// What wrote a file, and how.
const WRITER: &str = concat!("hull ", env!("CARGO_PKG_VERSION"), "\n");
/// A machine has a handful of profiles; with more than this, all are thrown away.
const FILES_MAX: usize = 64;

/// A folder of compiled filters.
#[derive(Debug, Clone)]
pub struct Filters {
    folder: PathBuf,
}

impl Filters {
    /// Filters in `folder`, which is made when there is something to keep.
    pub fn new(folder: impl Into<PathBuf>) -> Filters {
        Filters { folder: folder.into() }
    }

    /// The filter of a profile.
    ///
    /// # Errors
    /// The field of the profile that cannot be compiled.
    pub(crate) fn compiled(&self, seccomp: &LinuxSeccomp) -> Result<Program, PlanError> {
        let Ok(profile) = serde_json::to_vec(seccomp) else { return compile(seccomp) };
        let path = self.folder.join(format!("{:016x}", digest(&profile)));
        if let Some(program) = fs::read(&path).ok().and_then(|bytes| program(&bytes, &profile)) {
            return Ok(program);
        }
        let program = compile(seccomp)?;
        if let Err(error) = self.keep(&path, &profile, &program) {
            tracing::debug!(%error, path = %path.display(), "a compiled filter is not kept");
        }
        Ok(program)
    }

    fn keep(&self, path: &Path, profile: &[u8], program: &Program) -> io::Result<()> {
        match DirBuilder::new().mode(0o700).create(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            other => other?,
        }
        let kept: Vec<_> = fs::read_dir(&self.folder)?.filter_map(Result::ok).collect();
        if kept.len() >= FILES_MAX {
            kept.iter().try_for_each(|entry| fs::remove_file(entry.path()))?;
        }
        let length = (profile.len() as u64).to_le_bytes();
        let text = [WRITER.as_bytes(), &length, profile, &program.to_bytes()].concat();
        let temporary = path.with_extension(std::process::id().to_string());
        fs::write(&temporary, text).and_then(|()| fs::rename(&temporary, path))
    }
}

/// Compiles a profile.
///
/// # Errors
/// The field that cannot be.
pub(crate) fn compile(seccomp: &LinuxSeccomp) -> Result<Program, PlanError> {
    let filter = crate::seccomp::filter(seccomp).map_err(|error| PlanError::Seccomp(Box::new(error)))?;
    hull_kernel::seccomp::compile(&filter).map_err(|error| PlanError::Seccomp(Box::new(error)))
}

/// The program in a file's content, when it is that profile's.
fn program(bytes: &[u8], profile: &[u8]) -> Option<Program> {
    let (length, rest) = bytes.strip_prefix(WRITER.as_bytes())?.split_first_chunk::<8>()?;
    let (kept, program) = rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
    Some(program).filter(|_| kept == profile).and_then(|program| Program::from_bytes(program).ok())
}

/// FNV-1a, 64 bits: it names a file, whose content is compared.
fn digest(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |digest, byte| (digest ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile(call: &str) -> LinuxSeccomp {
        let text = format!(
            r#"{{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"],
                 "syscalls": [{{"names": ["{call}"], "action": "SCMP_ACT_ERRNO"}}]}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    fn files(folder: &Path) -> Vec<PathBuf> {
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
    }

    #[test]
    fn a_kept_filter_is_taken_and_a_foreign_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let filters = Filters::new(folder.path().join("filters"));
        let (mkdir, chmod) = (profile("mkdir"), profile("chmod"));
        let compiled = filters.compiled(&mkdir).unwrap();
        let path = files(&filters.folder).pop().unwrap();
        assert_eq!(filters.compiled(&mkdir).unwrap(), compiled);

        // A file with the program of another profile and the right name is not taken; one with the right profile is.
        let other = compile(&chmod).unwrap();
        filters.keep(&path, &serde_json::to_vec(&chmod).unwrap(), &other).unwrap();
        assert_eq!(filters.compiled(&mkdir).unwrap(), compiled);
        filters.keep(&path, &serde_json::to_vec(&mkdir).unwrap(), &other).unwrap();
        assert_eq!(filters.compiled(&mkdir).unwrap(), other, "this is how one is known to be read");
        for damaged in [&b""[..], b"hull 0\n", WRITER.as_bytes(), &[WRITER.as_bytes(), &[255; 40]].concat()] {
            fs::write(&path, damaged).unwrap();
            assert_eq!(filters.compiled(&mkdir).unwrap(), compiled);
        }
    }

    #[test]
    fn there_is_a_bound_and_no_need_for_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        let filters = Filters::new(folder.path());
        for number in 0..FILES_MAX + 1 {
            let mut profile = profile("mkdir");
            profile.syscalls[0].errno_ret = Some(1 + u32::try_from(number).unwrap());
            filters.compiled(&profile).unwrap();
        }
        assert_eq!(files(folder.path()).len(), 1);
        assert!(Filters::new("/proc/nowhere").compiled(&profile("mkdir")).is_ok());
        assert!(filters.compiled(&LinuxSeccomp { default_action: "SCMP_ACT_X".to_owned(), ..profile("a") }).is_err());
    }
}
