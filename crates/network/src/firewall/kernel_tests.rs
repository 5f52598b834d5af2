//! The table on the kernel, in a network namespace that ends with the test's thread.

use hull_kernel::netlink::nftables::{base_chains, table_names};

use super::*;
use crate::apart::apart;

fn segment(bridge: &str, subnet: &str) -> Segment {
    Segment { bridge: bridge.to_owned(), subnets: vec![(subnet.parse().unwrap(), 24)], internal: false }
}

fn publication(host_port: u16, open: bool) -> Publication {
    let address = "172.20.0.2".parse().unwrap();
    Publication { protocol: Protocol::Udp, host_address: None, host_port, address, port: 53, open }
}

#[test]
fn the_table_comes_changes_and_goes_as_a_whole() {
    apart(|| {
        let firewall = Firewall::new("");
        let network = segment("hull0", "172.20.0.1");
        let error = firewall.add_network(&network).unwrap_err();
        assert!(error.is_missing(), "{error:?}");
        firewall.remove_network(&network).unwrap();
        firewall.withdraw(&[publication(53, true)], &[]).unwrap();
        assert_eq!(table_names().unwrap(), []);

        for _ in 0..2 {
            firewall.ensure(std::slice::from_ref(&network), &[publication(53, true)]).unwrap();
        }
        assert_eq!(table_names().unwrap(), [("inet", "hull".to_owned())]);
        assert_eq!(base_chains().unwrap().len(), 5);
        let other = segment("hull1", "172.21.0.1");
        firewall.add_network(&other).unwrap();
        firewall.add_network(&other).unwrap();
        firewall.remove_network(&other).unwrap();
        firewall.remove_network(&other).unwrap();
        firewall.remove().unwrap();
        firewall.remove().unwrap();
        assert_eq!(table_names().unwrap(), []);
    });
}

#[test]
fn a_port_that_is_published_twice_is_refused_whole() {
    apart(|| {
        let firewall = Firewall::new("x");
        firewall.ensure(&[], &[publication(53, false)]).unwrap();
        let elsewhere = Publication { port: 54, ..publication(53, false) };
        let error = firewall.publish(&[publication(99, false), elsewhere]).unwrap_err();
        assert!(error.to_string().contains("closed4"), "{error}");
        // 99 has not stayed: it can lead elsewhere.
        firewall.publish(&[Publication { port: 1, ..publication(99, false) }]).unwrap();
        firewall.withdraw(&[publication(53, false)], &[]).unwrap();
        firewall.publish(&[elsewhere]).unwrap();
    });
}

#[test]
fn a_thousand_ports_are_one_transaction() {
    apart(|| {
        let firewall = Firewall::new("");
        let all: Vec<_> = (1..=1000).map(|port| publication(port, true)).collect();
        firewall.ensure(&[segment("hull0", "172.20.0.1")], &[]).unwrap();
        firewall.publish(&all).unwrap();
        firewall.withdraw(&all, &[]).unwrap();
        let mut elsewhere = all.clone();
        elsewhere.iter_mut().for_each(|one| one.port = 9);
        firewall.publish(&elsewhere).unwrap();
    });
}
