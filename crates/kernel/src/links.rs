//! Moves network interfaces into another network namespace, with their names and addresses (rtnetlink(7)).
//!
//! A move takes an interface down and its addresses away, so what is to last is read before and set again after: the
//! permanent addresses of global scope, and that it is up. The interface gets its new name on arrival; one that is taken
//! is found out before anything moves, because what has moved cannot always be moved back.
//!
//! ```text
//! here                                     there
//!   RTM_GETLINK by name -> index             RTM_GETLINK, all -> names that are taken
//!   RTM_GETADDR, all -> addresses
//!   RTM_SETLINK down
//!   RTM_SETLINK IFLA_NET_NS_FD, IFLA_IFNAME
//!                                            RTM_GETLINK, all -> the one that is new
//!                                            RTM_NEWADDR for each
//!                                            RTM_SETLINK up
//! ```

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{LinkAttribute, LinkMessage};

use crate::netlink::route::Netlink;

/// An interface that was not moved.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// No such interface.
    #[error("there is no network interface {0:?}")]
    Missing(String),
    /// The name is taken where the interface is to go.
    #[error("there is a network interface {0:?} already")]
    Taken(String),
    /// The kernel refused a step.
    #[error("{action} network interface {name:?}")]
    Refused {
        /// What was being done.
        action: &'static str,
        /// To which interface.
        name: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Moves the interface `name` of the calling thread's network namespace into `namespace` and sets it up there as
/// `new_name`, in which the kernel makes a number of `%d`.
///
/// The thread is in the other namespace for a moment, so it must be the only one of its process.
///
/// # Errors
/// [`LinkError`]; with [`LinkError::Missing`] and [`LinkError::Taken`] nothing has changed.
pub fn move_into(namespace: BorrowedFd<'_>, name: &str, new_name: &str) -> Result<(), LinkError> {
    let failed = |action| move |source| LinkError::Refused { action, name: name.to_owned(), source };
    let here = Netlink::here().map_err(failed("asking for"))?;
    let there = Netlink::of(namespace).map_err(failed("entering the namespace for"))?;
    let own = links(&here).map_err(failed("asking for"))?;
    let index = own.iter().find(|(_, own)| own == name).map(|(index, _)| *index);
    let index = index.ok_or_else(|| LinkError::Missing(name.to_owned()))?;
    let before = links(&there).map_err(failed("looking for a place for"))?;
    if before.iter().any(|(_, taken)| taken == new_name) {
        return Err(LinkError::Taken(new_name.to_owned()));
    }
    let addresses = lasting_addresses(&here, index).map_err(failed("reading the addresses of"))?;
    here.set_up(index, false).map_err(failed("setting down"))?;
    let mut link = LinkMessage::default();
    link.header.index = index;
    link.attributes.push(LinkAttribute::NetNsFd(namespace.as_raw_fd()));
    link.attributes.push(LinkAttribute::IfName(new_name.to_owned()));
    here.tell(RouteNetlinkMessage::SetLink(link), 0).map_err(failed("moving"))?;
    let after = links(&there).map_err(failed("looking for"))?;
    let arrived = after.iter().find(|link| !before.contains(link)).map(|(index, _)| *index);
    let arrived = arrived.ok_or_else(|| LinkError::Missing(new_name.to_owned()))?;
    for address in addresses {
        there
            .tell(RouteNetlinkMessage::NewAddress(kept(&address, arrived)), 0)
            .map_err(failed("giving addresses to"))?;
    }
    there.set_up(arrived, true).map_err(failed("setting up"))
}

/// What of an address is given to the interface again.
fn kept(address: &AddressMessage, index: u32) -> AddressMessage {
    let mut kept = AddressMessage::default();
    kept.header = address.header.clone();
    kept.header.index = index;
    kept.header.flags = AddressHeaderFlags::empty();
    let lasting = AddressFlags::Nodad | AddressFlags::Noprefixroute | AddressFlags::Mcautojoin;
    for attribute in &address.attributes {
        match attribute {
            AddressAttribute::Flags(flags) => kept.attributes.push(AddressAttribute::Flags(*flags & lasting)),
            AddressAttribute::Address(_)
            | AddressAttribute::Local(_)
            | AddressAttribute::Broadcast(_)
            | AddressAttribute::RoutePriority(_) => kept.attributes.push(attribute.clone()),
            _ => {}
        }
    }
    kept
}

/// Whether an address is to last: set by somebody and meant for the world.
fn lasts(address: &AddressMessage) -> bool {
    address.header.scope == AddressScope::Universe && address.header.flags.contains(AddressHeaderFlags::Permanent)
}

/// Index and name of every interface.
fn links(netlink: &Netlink) -> io::Result<Vec<(u32, String)>> {
    let answers = netlink.ask(RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
    let named = |answer| match answer {
        RouteNetlinkMessage::NewLink(link) => link.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::IfName(name) => Some((link.header.index, name.clone())),
            _ => None,
        }),
        _ => None,
    };
    Ok(answers.into_iter().filter_map(named).collect())
}

fn lasting_addresses(netlink: &Netlink, index: u32) -> io::Result<Vec<AddressMessage>> {
    let answers = netlink.ask(RouteNetlinkMessage::GetAddress(AddressMessage::default()))?;
    let own = |answer| match answer {
        RouteNetlinkMessage::NewAddress(address) if address.header.index == index && lasts(&address) => Some(address),
        _ => None,
    };
    Ok(answers.into_iter().filter_map(own).collect())
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn what_lasts_of_an_address_is_kept() {
        let mut address = AddressMessage::default();
        address.header.index = 5;
        address.header.prefix_len = 24;
        address.header.flags = AddressHeaderFlags::Permanent;
        let own = AddressAttribute::Local(IpAddr::V4(Ipv4Addr::new(10, 1, 2, 3)));
        address.attributes = vec![
            own.clone(),
            AddressAttribute::Label("eth0".to_owned()),
            AddressAttribute::Flags(AddressFlags::Permanent | AddressFlags::Noprefixroute),
        ];
        assert!(lasts(&address));
        let kept = kept(&address, 9);
        assert_eq!((kept.header.index, kept.header.prefix_len), (9, 24));
        assert_eq!(kept.attributes, [own, AddressAttribute::Flags(AddressFlags::Noprefixroute)]);
        address.header.scope = AddressScope::Link;
        assert!(!lasts(&address));
        address.header = Default::default();
        assert!(!lasts(&address), "not permanent");
    }

    #[test]
    fn an_interface_that_is_not_there_is_named() {
        let own = std::fs::File::open("/proc/self/ns/net").unwrap();
        let error = move_into(own.as_fd(), "no-such-device", "eth7").unwrap_err();
        assert!(matches!(&error, LinkError::Missing(name) if name == "no-such-device"), "{error:?}");
        let error = move_into(own.as_fd(), "lo", "lo").unwrap_err();
        assert!(matches!(error, LinkError::Taken(_)), "{error:?}");
    }
}
