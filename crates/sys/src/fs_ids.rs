//! setfsuid(2) and setfsgid(2): whom the calling thread's new files belong to, and as whom it is checked.
//!
//! libc's wrappers change one thread, as the system calls do. Leaving user 0 takes the file capabilities out of the
//! effective set; whoever wants to keep them puts them back (capset(2)), since the permitted set stays.

use std::io;

/// Sets both ids of the calling thread.
///
/// # Errors
/// `EPERM` when the kernel did not take them, which it does not say itself.
pub fn set_fs_ids(uid: u32, gid: u32) -> io::Result<()> {
    // SAFETY: both calls take plain integers and change only the calling thread's credentials.
    unsafe {
        libc::setfsgid(gid);
        libc::setfsuid(uid);
    }
    // An impossible id changes nothing and returns the present one.
    // SAFETY: as above.
    let (now_uid, now_gid) = unsafe { (libc::setfsuid(u32::MAX), libc::setfsgid(u32::MAX)) };
    if (now_uid as u32, now_gid as u32) == (uid, gid) { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EPERM)) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn a_threads_files_belong_to_its_ids_and_other_threads_keep_theirs() {
        let folder = tempfile::tempdir().unwrap();
        let own = std::fs::metadata(folder.path()).unwrap().uid();
        std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        let made = folder.path().join("made");
        let path = made.clone();
        std::thread::spawn(move || {
            super::set_fs_ids(1234, 2345).expect("root");
            std::fs::write(path, "").unwrap();
        })
        .join()
        .unwrap();
        let made = std::fs::metadata(made).unwrap();
        assert_eq!((made.uid(), made.gid()), (1234, 2345));
        std::fs::write(folder.path().join("mine"), "").unwrap();
        assert_eq!(std::fs::metadata(folder.path().join("mine")).unwrap().uid(), own);
    }
}
