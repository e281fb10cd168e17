//! What people write into provisioning files, as values that can only be built right.
//!
//! Each function takes the text and gives the value, or what the text must be. No message repeats the text: it may be a
//! password that went into the wrong line.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::model::ZoneName;

/// An SSID has at most 32 bytes (IEEE 802.11, 9.4.2.2).
const SSID_BYTES_MAX: usize = 32;
/// A passphrase of WPA has 8 to 63 characters (IEEE 802.11, J.4.1).
const PASSPHRASE_BYTES: std::ops::RangeInclusive<usize> = 8..=63;
/// The key that a passphrase becomes has 32 bytes.
const PSK_DIGITS: usize = 64;
/// Longest line of a public key; RSA of 16384 bits has some 2800 characters.
const PUBLIC_KEY_BYTES_MAX: usize = 8192;
/// What a public key begins with (sshd(8), AUTHORIZED_KEYS FILE FORMAT).
const PUBLIC_KEY_KINDS: [&str; 7] = [
    "ssh-ed25519",
    "ssh-rsa",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
];
/// What a hash of crypt(5) begins with, of the methods that are worth it.
const HASH_KINDS: [&str; 5] = ["$y$", "$gy$", "$7$", "$6$", "$5$"];

/// A value, or what it must be: it follows after the key's name.
pub(super) type Read<T> = Result<T, String>;

/// The name of this device on the network, in lower case (RFC 1123, 2.1).
pub(super) fn host_name(text: &str) -> Read<String> {
    let name = text.to_ascii_lowercase();
    let letters = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    let right = letters
        && (1..=63).contains(&name.len())
        && !name.starts_with('-')
        && !name.ends_with('-')
        && name != "localhost";
    right.then_some(name).ok_or_else(|| {
        "must be a name of 1 to 63 letters (a-z), digits and -, without a dot, and not begin or end with -"
            .to_owned()
    })
}

/// A time zone.
pub(super) fn time_zone(text: &str) -> Read<String> {
    let plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/_+-".contains(&byte));
    let known = plain && !text.starts_with('/') && text.parse::<ZoneName>().is_ok();
    known.then(|| text.to_owned()).ok_or_else(|| "must be a time zone like \"Europe/Berlin\"".to_owned())
}

/// A layout of the keyboard.
pub(super) fn keymap(text: &str) -> Read<String> {
    let letters = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    let right = letters && (1..=32).contains(&text.len());
    right.then(|| text.to_owned()).ok_or_else(|| "must be a keyboard layout like \"de\" or \"us\"".to_owned())
}

/// The name of a wireless network, as hexadecimal digits, which say also what is no text.
pub(super) fn ssid(text: &str) -> Read<String> {
    if (1..=SSID_BYTES_MAX).contains(&text.len()) {
        return Ok(hex(text.as_bytes()));
    }
    Err(format!("must be 1 to {SSID_BYTES_MAX} bytes; letters like ä have two or more"))
}

/// The same, already in hexadecimal digits.
pub(super) fn ssid_hex(text: &str) -> Read<String> {
    let digits = text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if digits && text.len().is_multiple_of(2) && (2..=2 * SSID_BYTES_MAX).contains(&text.len()) {
        return Ok(text.to_ascii_lowercase());
    }
    Err(format!("must be 1 to {SSID_BYTES_MAX} bytes, two hexadecimal digits each"))
}

/// The password of a wireless network.
pub(super) fn passphrase(text: &str) -> Read<String> {
    let right = PASSPHRASE_BYTES.contains(&text.len()) && !text.chars().any(char::is_control);
    right.then(|| text.to_owned()).ok_or_else(|| {
        "must be 8 to 63 characters; the 64 hexadecimal digits of a key go into psk, and a network without a password \
         has none"
            .to_owned()
    })
}

/// The key of a wireless network.
pub(super) fn psk(text: &str) -> Read<String> {
    let right = text.len() == PSK_DIGITS && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    right.then(|| text.to_ascii_lowercase()).ok_or_else(|| {
        format!("must be {PSK_DIGITS} hexadecimal digits; a password in words goes into password")
    })
}

/// A country, whose rules for radio apply (ISO 3166-1, two letters).
pub(super) fn country(text: &str) -> Read<String> {
    let right = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_alphabetic());
    right.then(|| text.to_ascii_uppercase()).ok_or_else(|| {
        "must be the two letters of the country that the device is in, like \"DE\" or \"US\"".to_owned()
    })
}

/// An address of this device with the length of its network's prefix.
pub(super) fn address(text: &str) -> Read<IpNet> {
    let must = "must be an address of this device with the length of its network, like \"192.168.1.10/24\"";
    let net: IpNet = text.parse().map_err(|_| must.to_owned())?;
    let (own, network) = (net.addr(), net.network());
    let hosts_have_room = net.max_prefix_len() - net.prefix_len() >= 2;
    let is_whole = hosts_have_room && (own == network || (own.is_ipv4() && own == net.broadcast()));
    if is_whole || own.is_loopback() || own.is_multicast() || own.is_unspecified() {
        return Err(format!("{must}; this one no device can have"));
    }
    Ok(net)
}

/// The way out of a network, as seen from `own`.
pub(super) fn gateway(text: &str, own: &IpNet) -> Read<IpAddr> {
    let gateway = ip(text)?;
    let link_local =
        matches!(gateway, IpAddr::V6(six) if six.is_unicast_link_local()) && own.addr().is_ipv6();
    if gateway == own.addr() || !(own.contains(&gateway) || link_local) {
        return Err(format!("must be another address in the network {}", own.trunc()));
    }
    Ok(gateway)
}

/// Any address.
pub(super) fn ip(text: &str) -> Read<IpAddr> {
    text.parse().map_err(|_| "must be an address like \"192.168.1.1\"".to_owned())
}

/// A public key that may log in: one line of OpenSSH, without options.
pub(super) fn public_key(text: &str) -> Read<String> {
    let line = text.trim();
    let mut words = line.split_ascii_whitespace();
    let kind = words.next().is_some_and(|kind| PUBLIC_KEY_KINDS.contains(&kind));
    let key = words.next().is_some_and(|key| {
        key.len() >= 64 && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte))
    });
    let right = kind && key && line.len() <= PUBLIC_KEY_BYTES_MAX && !line.chars().any(char::is_control);
    right
        .then(|| line.to_owned())
        .ok_or_else(|| "must be public keys, each like the line of ~/.ssh/id_ed25519.pub".to_owned())
}

/// The hash of a password (crypt(5)).
pub(super) fn password_hash(text: &str) -> Read<String> {
    let kind = HASH_KINDS.iter().any(|kind| text.starts_with(kind));
    let letters = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"./$=,+-".contains(&byte));
    let right = kind && letters && (20..=512).contains(&text.len());
    right.then(|| text.to_owned()).ok_or_else(|| {
        "must be the hash of a password, as `openssl passwd -6` or `mkpasswd` make it, and never the password".to_owned()
    })
}

/// The key that may do everything with the daemon.
pub(super) fn admin_key(text: &str) -> Read<String> {
    let right = (16..=256).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
    right.then(|| text.to_owned()).ok_or_else(|| {
        "must be 16 to 256 letters, digits and signs without blanks; make it long and random".to_owned()
    })
}

/// The code by which the first user is made, as the daemon takes it; whoever guesses it owns the device.
pub(super) fn setup_code(text: &str) -> Read<String> {
    let letters = text.bytes().filter(|byte| !matches!(byte, b'-' | b' ')).collect::<Vec<_>>();
    let right = (8..=64).contains(&letters.len())
        && letters.iter().all(u8::is_ascii_alphanumeric)
        && text.len() <= 2 * letters.len();
    right
        .then(|| text.trim().to_owned())
        .ok_or_else(|| "must be 8 to 64 letters and digits; - and blanks do not count".to_owned())
}

/// Where the journal is (journald.conf(5), Storage=): whether it is in memory only.
pub(super) fn journal(text: &str) -> Read<bool> {
    match text {
        "" | "persistent" => Ok(false),
        "volatile" => Ok(true),
        _ => Err("must be \"persistent\", on the card, or \"volatile\", in memory only".to_owned()),
    }
}

/// A server that is asked for the time.
pub(super) fn time_url(text: &str) -> Read<String> {
    let host = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    let right = host.is_some_and(|host| {
        !host.is_empty()
            && host.len() <= 253
            && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-:[]/".contains(&byte))
    });
    right.then(|| text.to_owned()).ok_or_else(|| "must be URLs like \"http://example.org\"".to_owned())
}

/// Bytes in hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
