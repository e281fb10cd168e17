//! The network as systemd-networkd and wpa_supplicant take it (systemd.network(5), wpa_supplicant.conf(5)).

use std::num::NonZeroU32;

use ring::pbkdf2;

use super::settings::{Network, Wifi};
use super::values;

/// A cable is preferred to the air: networkd's own default is 1024, and less is better.
const WIRELESS_METRIC: u32 = 2048;
/// How often a password is hashed (IEEE 802.11, J.4.1).
const ROUNDS: NonZeroU32 = NonZeroU32::new(4096).expect("it is not zero");

/// Every Ethernet device, also one on USB, but none that is virtual.
pub(super) fn ethernet(network: &Network) -> String {
    unit("Type=ether\nKind=!*", network, None)
}

/// Every wireless device.
pub(super) fn wireless(network: &Network) -> String {
    unit("Type=wlan", network, Some(WIRELESS_METRIC))
}

fn unit(matching: &str, network: &Network, metric: Option<u32>) -> String {
    let mut text = String::from("# Made at each boot from the settings of this device.\n");
    text += &format!("[Match]\n{matching}\n\n[Link]\nRequiredForOnline=no\n\n[Network]\n");
    match &network.address {
        Some(address) => text += &format!("Address={address}\n"),
        None => text += "DHCP=yes\n",
    }
    for server in &network.dns {
        text += &format!("DNS={server}\n");
    }
    // Each link has its own switch besides the global one, and is off without it.
    text += "MulticastDNS=yes\nLLMNR=no\nIPv6AcceptRA=yes\n";
    let metric_line = |name: &str| metric.map_or_else(String::new, |metric| format!("{name}={metric}\n"));
    if let Some(gateway) = &network.gateway {
        text += &format!("\n[Route]\nGateway={gateway}\n{}", metric_line("Metric"));
    }
    if network.address.is_none() {
        let use_dns = if network.dns.is_empty() { "yes" } else { "no" };
        // Routers know devices by their MAC; a name made of the machine's id changes with a factory reset.
        let four = "ClientIdentifier=mac\nUseNTP=yes\nUseHostname=no\n";
        text += &format!("\n[DHCPv4]\n{four}UseDNS={use_dns}\n{}", metric_line("RouteMetric"));
        text += &format!("\n[DHCPv6]\nUseNTP=yes\nUseHostname=no\nUseDNS={use_dns}\n");
    }
    if let Some(metric) = metric {
        text += &format!("\n[IPv6AcceptRA]\nRouteMetric={metric}\n");
    }
    text
}

/// The configuration of wpa_supplicant. Its texts in quotes know no escapes, and a `#` behind a quote begins a comment: so
/// everything that people chose stands in hexadecimal digits. Of a password that is the key it becomes, but WPA3 needs the
/// password itself.
pub(super) fn wpa_supplicant(wifi: &Wifi) -> String {
    let mut text = format!(
        "# Made at each boot from the settings of this device.\nctrl_interface=/run/wpa_supplicant\n\
         update_config=0\ncountry={}\n\nnetwork={{\n\tssid={}\n",
        wifi.country, wifi.ssid_hex
    );
    if wifi.hidden {
        text += "\tscan_ssid=1\n";
    }
    let psk = match &wifi.password {
        Some(password) if wifi.wpa3 => {
            let password = values::hex(password.as_bytes());
            text += &format!("\tkey_mgmt=SAE\n\tieee80211w=2\n\tsae_password={password}\n");
            return text + "}\n";
        }
        Some(password) => Some(key_of(password, &wifi.ssid_hex)),
        None => wifi.psk.clone(),
    };
    text += &match psk {
        Some(psk) => format!("\tkey_mgmt=WPA-PSK WPA-PSK-SHA256\n\tieee80211w=1\n\tpsk={psk}\n"),
        None => "\tkey_mgmt=NONE\n".to_owned(),
    };
    text + "}\n"
}

/// The key that a password becomes (IEEE 802.11, J.4.1).
fn key_of(password: &str, ssid_hex: &str) -> String {
    let digit = |at: usize| ssid_hex.get(at..at + 2).and_then(|two| u8::from_str_radix(two, 16).ok());
    let ssid: Vec<u8> = (0..ssid_hex.len()).step_by(2).filter_map(digit).collect();
    let mut key = [0; 32];
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA1, ROUNDS, &ssid, password.as_bytes(), &mut key);
    values::hex(&key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, wanted: &str) {
        let lines: Vec<&str> = wanted.lines().map(str::trim).collect();
        let told: Vec<&str> = text.lines().skip(1).map(str::trim).collect();
        assert_eq!(told, lines, "\n{text}");
    }

    #[test]
    fn a_cable_asks_the_network_or_has_an_address() {
        let asks = Network::default();
        check(
            &ethernet(&asks),
            "[Match]\nType=ether\nKind=!*\n\n[Link]\nRequiredForOnline=no\n\n[Network]\nDHCP=yes\nMulticastDNS=yes\n\
             LLMNR=no\nIPv6AcceptRA=yes\n\n[DHCPv4]\nClientIdentifier=mac\nUseNTP=yes\nUseHostname=no\nUseDNS=yes\n\n\
             [DHCPv6]\nUseNTP=yes\nUseHostname=no\nUseDNS=yes",
        );
        let fixed = Network {
            address: Some("192.168.7.2/24".into()),
            gateway: Some("192.168.7.1".into()),
            dns: vec!["9.9.9.9".into(), "2620:fe::fe".into()],
        };
        check(
            &ethernet(&fixed),
            "[Match]\nType=ether\nKind=!*\n\n[Link]\nRequiredForOnline=no\n\n[Network]\nAddress=192.168.7.2/24\n\
             DNS=9.9.9.9\nDNS=2620:fe::fe\nMulticastDNS=yes\nLLMNR=no\nIPv6AcceptRA=yes\n\n[Route]\nGateway=192.168.7.1",
        );
    }

    #[test]
    fn the_air_comes_after_the_cable() {
        let text = wireless(&Network { dns: vec!["9.9.9.9".into()], ..Network::default() });
        for line in ["Type=wlan", "RouteMetric=2048", "DNS=9.9.9.9", "UseDNS=no", "MulticastDNS=yes"] {
            assert!(text.lines().any(|told| told == line), "{line} in\n{text}");
        }
        let fixed =
            Network { address: Some("10.0.0.9/8".into()), gateway: Some("10.0.0.1".into()), dns: Vec::new() };
        assert!(wireless(&fixed).contains("Gateway=10.0.0.1\nMetric=2048\n"));
    }

    #[test]
    fn what_people_chose_stands_in_digits() {
        let home = Wifi { ssid_hex: "49454545".into(), country: "DE".into(), ..Wifi::default() };
        let head =
            "ctrl_interface=/run/wpa_supplicant\nupdate_config=0\ncountry=DE\n\nnetwork={\nssid=49454545\n";
        let wpa2 = "key_mgmt=WPA-PSK WPA-PSK-SHA256\nieee80211w=1\n";
        let odd = r#"a"b#c\d'e ü"#;
        let rows = [
            (home.clone(), "key_mgmt=NONE\n".to_owned()),
            (
                Wifi { psk: Some("ab".repeat(32)), hidden: true, ..home.clone() },
                format!("scan_ssid=1\n{wpa2}psk={}\n", "ab".repeat(32)),
            ),
            (
                Wifi { password: Some(odd.into()), ..home.clone() },
                format!("{wpa2}psk={}\n", key_of(odd, "49454545")),
            ),
            (
                Wifi { password: Some(odd.into()), wpa3: true, ..home.clone() },
                format!("key_mgmt=SAE\nieee80211w=2\nsae_password={}\n", values::hex(odd.as_bytes())),
            ),
        ];
        for (wifi, rest) in rows {
            check(&wpa_supplicant(&wifi), &format!("{head}{rest}}}"));
        }
    }

    #[test]
    fn passwords_become_keys_as_the_standard_says() {
        // Its own examples (IEEE 802.11, J.4.2).
        for (password, ssid, key) in [
            ("password", "IEEE", "f42c6fc52df0ebef9ebb4b90b38a5f902e83fe1b135a70e23aed762e9710a12e"),
            (
                "ThisIsAPassword",
                "ThisIsASSID",
                "0dc0d6eb90555ed6419756b9a15ec3e3209b63df707dd508d14581f8982721af",
            ),
        ] {
            assert_eq!(key_of(password, &values::hex(ssid.as_bytes())), key, "{password}");
        }
    }
}
