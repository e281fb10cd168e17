//! Whether the device is in a network: whether it has a way out of it (proc_pid_net(5)).

use std::fs;

use super::Place;

/// Whether there is a default route, by IPv4 or IPv6.
pub(super) fn is_up(place: &Place) -> bool {
    let table = |path: &str| fs::read_to_string(place.path(path)).unwrap_or_default();
    // Interface, destination, ..: hexadecimal.
    let by_ipv4 =
        table("proc/net/route").lines().any(|line| line.split_whitespace().nth(1) == Some("00000000"));
    // Destination, its prefix, .., and the interface last; `lo` has a route that refuses.
    let by_ipv6 = table("proc/net/ipv6_route").lines().any(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        matches!(words.as_slice(), [to, "00", .., interface] if to.bytes().all(|byte| byte == b'0') && *interface != "lo")
    });
    by_ipv4 || by_ipv6
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::testing::Folder;

    #[test]
    fn a_default_route_is_a_network() {
        let v4 = "Iface\tDestination\tGateway\teth0\neth0\t00000000\t0102A8C0\t0003\n";
        let local = "Iface\tDestination\neth0\t0002A8C0\t00000000\t0001\n";
        let zeros = "0".repeat(32);
        let v6 =
            |interface: &str| format!("{zeros} 00 {zeros} 00 {zeros} 00000064 1 0 00000003 {interface}\n");
        for (route, route6, up) in [
            (v4, String::new(), true),
            (local, String::new(), false),
            ("", v6("eth0"), true),
            ("", v6("lo"), false),
            ("", String::new(), false),
        ] {
            let folder = Folder::new();
            folder.file("proc/net/route", route.as_bytes());
            folder.file("proc/net/ipv6_route", route6.as_bytes());
            assert_eq!(is_up(&folder.place()), up, "{route} {route6}");
        }
    }
}
