//! A tree with everything that a layer may have.

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;

/// Makes it.
pub fn fill(top: &Path) {
    let long = top.join("long-".repeat(30)).join("name-".repeat(40));
    fs::create_dir_all(&long).unwrap();
    for (number, folder) in [top.to_path_buf(), long, top.join("usr/share/doc")].iter().enumerate() {
        fs::create_dir_all(folder).unwrap();
        for size in [0, 1, 511, 512, 513, 300_000] {
            let path = folder.join(format!("file-{size}"));
            fs::write(&path, (0..size).map(|n| (n % 251) as u8 + 1).collect::<Vec<_>>()).unwrap();
            std::os::unix::fs::chown(&path, Some(number as u32 * 1000), Some(size)).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o4640 + number as u32)).unwrap();
        }
        symlink("file-1", folder.join("link")).unwrap();
        symlink("x/".repeat(150), folder.join("long-link")).unwrap();
        fs::hard_link(folder.join("file-513"), top.join(format!("hard-{number}"))).unwrap();
        let mode = rustix::fs::Mode::from_raw_mode(0o640);
        let node = |name: &str, kind, device| {
            rustix::fs::mknodat(rustix::fs::CWD, folder.join(name), kind, mode, device).unwrap();
        };
        node("null", rustix::fs::FileType::CharacterDevice, rustix::fs::makedev(1, 3));
        node("disk", rustix::fs::FileType::BlockDevice, rustix::fs::makedev(259, 70_000));
        node("fifo", rustix::fs::FileType::Fifo, 0);
        let sparse = fs::File::create(folder.join("sparse")).unwrap();
        for part in 0..30 {
            sparse.write_all_at(b"data", (part * 3 + 1) << 16).unwrap();
        }
        sparse.set_len(50 << 20).unwrap();
        for (path, attribute) in [("file-1", "trusted.other"), ("usr", "trusted.hull"), ("file-512", "trusted.a-b")] {
            let flags = rustix::fs::XattrFlags::empty();
            let path = top.join(path);
            if path.exists() {
                rustix::fs::lsetxattr(&path, attribute, b"v\0\nal", flags).unwrap();
            }
        }
    }
    fs::set_permissions(top.join("usr/share"), fs::Permissions::from_mode(0o2751)).unwrap();
    fs::set_permissions(top, fs::Permissions::from_mode(0o711)).unwrap();
}
