//! Whom the resolver asks what it does not know: the host's name servers.
//!
//! /etc/resolv.conf is looked at for every question (one stat(2)) and read again when it is another file or has changed,
//! so that a host that moves to another network takes its containers along. It is the host's file, in the host's
//! network: servers on loopback count. As resolv.conf(5) says, three servers at most, and without any the one of this
//! machine.

use std::fs::{self, Metadata};
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use crate::resolv_conf::ResolvConf;

/// Most servers that are asked (`MAXNS`).
pub const MOST_SERVERS: usize = 3;

/// Which content of a file was read: device, inode, seconds and nanoseconds of its last change, and its length.
type Stamp = (u64, u64, i64, i64, u64);

/// The host's name servers, as they are now.
#[derive(Debug)]
pub struct HostServers {
    path: PathBuf,
    stamp: Option<Stamp>,
    servers: Vec<IpAddr>,
}

impl HostServers {
    /// Of a resolv.conf.
    pub fn of(path: impl Into<PathBuf>) -> HostServers {
        HostServers { path: path.into(), stamp: None, servers: vec![Ipv4Addr::LOCALHOST.into()] }
    }

    /// What the file says now.
    pub fn current(&mut self) -> &[IpAddr] {
        let stamp = fs::metadata(&self.path).ok().map(|found| stamp(&found));
        if stamp != self.stamp || stamp.is_none() {
            self.stamp = stamp;
            self.servers = ResolvConf::parse(&fs::read(&self.path).unwrap_or_default()).servers;
            self.servers.truncate(MOST_SERVERS);
            if self.servers.is_empty() {
                self.servers.push(Ipv4Addr::LOCALHOST.into());
            }
        }
        &self.servers
    }
}

fn stamp(found: &Metadata) -> Stamp {
    (found.dev(), found.ino(), found.ctime(), found.ctime_nsec(), found.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_file_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("resolv.conf");
        let mut servers = HostServers::of(&path);
        let mut now = || servers.current().iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        assert_eq!(now(), "127.0.0.1");
        fs::write(&path, "nameserver 192.0.2.1\n").unwrap();
        assert_eq!(now(), "192.0.2.1");
        fs::write(&path, "nameserver 127.0.0.53\nnameserver ::1\n").unwrap();
        assert_eq!(now(), "127.0.0.53 ::1");
        let new = folder.path().join("new");
        fs::write(&new, "nameserver 127.0.0.54\nnameserver ::1\nnameserver ::2\nnameserver ::3\n").unwrap();
        fs::rename(&new, &path).unwrap();
        assert_eq!(now(), "127.0.0.54 ::1 ::2");
        fs::remove_file(&path).unwrap();
        assert_eq!(now(), "127.0.0.1");
    }
}
