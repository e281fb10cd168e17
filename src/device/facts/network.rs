//! Interfaces and addresses. Asking the kernel by netlink is forbidden to the daemon; its own directory in `/proc` tells
//! the same.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde_json::{Value, json};

use super::text;
use crate::device::Place;

/// More interfaces or addresses nobody looks at.
const ITEMS_MAX: usize = 32;

/// Interfaces but for the loop, and addresses but for those of the loop.
pub(super) fn look(place: &Place) -> Value {
    let mut names: Vec<String> = std::fs::read_dir(place.path("sys/class/net"))
        .into_iter()
        .flatten()
        .take(ITEMS_MAX)
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name != "lo")
        .collect();
    names.sort();
    let interfaces = names.iter().map(|name| {
        let state = text(&place.path("sys/class/net").join(name).join("operstate"));
        json!({ "name": name, "up": state.map(|state| state == "up") })
    });
    let four = text(&place.path("proc/self/net/fib_trie")).unwrap_or_default();
    let six = text(&place.path("proc/self/net/if_inet6")).unwrap_or_default();
    let mut addresses: Vec<IpAddr> = four_of(&four).chain(six_of(&six)).collect();
    addresses.retain(|address| !address.is_loopback());
    addresses.sort();
    addresses.dedup();
    addresses.truncate(ITEMS_MAX);
    json!({ "interfaces": interfaces.collect::<Vec<_>>(), "addresses": addresses })
}

/// The device's own addresses in the table of routes: a leaf, and below it that it is local.
fn four_of(trie: &str) -> impl Iterator<Item = IpAddr> + '_ {
    trie.lines().zip(trie.lines().skip(1)).filter_map(|(leaf, below)| {
        let address = leaf.trim_start().strip_prefix("|-- ")?;
        let local = below.trim() == "/32 host LOCAL";
        local.then(|| address.parse::<Ipv4Addr>().ok()).flatten().map(IpAddr::V4)
    })
}

/// Each line begins with an address in 32 digits.
fn six_of(lines: &str) -> impl Iterator<Item = IpAddr> + '_ {
    lines.lines().filter_map(|line| {
        let digits = line.split(' ').next().filter(|digits| digits.len() == 32)?;
        u128::from_str_radix(digits, 16).ok().map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits)))
    })
}
