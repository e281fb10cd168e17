//! The header by which a device that calls itself knows its own chain of triggers.
//!
//! A script that calls a route of its own device would begin a new chain each time, and a loop of such calls would
//! never end. So a call that stays on the device carries the depth and the root of the run that makes it, signed with
//! a key of this process: nobody else can pretend to be deep in a chain, or to belong to another one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::sync::Arc;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use uuid::Uuid;

use crate::model::Chain;

/// The header's name. Scripts neither send nor see it.
pub const CHAIN_HEADER: &str = "x-picloud-chain";

/// What chains are signed with; of one process, and gone with it.
#[derive(Clone)]
pub struct ChainKey(Arc<[u8; 32]>);

impl ChainKey {
    /// A key of random bits.
    pub fn new(bits: [u8; 32]) -> ChainKey {
        ChainKey(Arc::new(bits))
    }

    /// The header's value: `<depth>.<root>.<mac>`.
    pub fn sign(&self, chain: Chain) -> String {
        let told = told(chain);
        let mac = self.mac(&told).finalize().into_bytes();
        let hex: String = mac.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{told}.{hex}")
    }

    /// What a header's value says, if this process signed it.
    pub fn verify(&self, value: &str) -> Option<Chain> {
        let (told, hex) = value.rsplit_once('.')?;
        let (depth, root) = told.split_once('.')?;
        let chain = Chain { depth: depth.parse().ok()?, root: Uuid::try_parse(root).ok()? };
        // One spelling only: what is signed is what is read.
        if self::told(chain) != told || hex.len() != 64 || !hex.is_ascii() {
            return None;
        }
        let mac: Option<Vec<u8>> =
            (0..32).map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).ok()).collect();
        self.mac(told).verify_slice(&mac?).is_ok().then_some(chain)
    }

    fn mac(&self, told: &str) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&*self.0).expect("a key of any length will do");
        mac.update(told.as_bytes());
        mac
    }
}

impl std::fmt::Debug for ChainKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ChainKey")
    }
}

fn told(chain: Chain) -> String {
    format!("{}.{}", chain.depth, chain.root)
}

/// Whether an address is one of this device's own. The kernel talks to those from the same address; nothing is sent.
pub(super) fn is_own(address: IpAddr) -> bool {
    if address.is_loopback() {
        return true;
    }
    let any: IpAddr = match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let from = UdpSocket::bind((any, 0)).and_then(|socket| {
        socket.connect((address, 9))?;
        socket.local_addr()
    });
    from.is_ok_and(|from| from.ip() == address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_signed_is_read_and_nothing_else() {
        let key = ChainKey::new([7; 32]);
        let chain = Chain { depth: 3, root: Uuid::from_u128(9) };
        let value = key.sign(chain);
        assert_eq!(key.verify(&value), Some(chain));
        assert_eq!(ChainKey::new([8; 32]).verify(&value), None);
        let (told, mac) = value.rsplit_once('.').unwrap();
        let root = chain.root;
        for forged in [
            String::new(),
            told.to_owned(),
            format!("{told}."),
            format!("4.{root}.{mac}"),
            format!("03.{root}.{mac}"),
            format!("3.{}.{mac}", root.simple()),
            format!("3.{}.{mac}", Uuid::from_u128(10)),
            format!("{told}.{}", &mac[..62]),
            format!("{told}.{mac}00"),
            format!("{told}.{}é", &mac[..62]),
            format!("{told}.+{}", &mac[1..]),
            format!("{told}.{}", "0".repeat(64)),
        ] {
            assert_eq!(key.verify(&forged), None, "{forged}");
        }
    }

    #[test]
    fn own_addresses_are_known() {
        for (address, own) in [("127.0.0.1", true), ("127.9.9.9", true), ("::1", true), ("192.0.2.1", false)]
        {
            assert_eq!(is_own(address.parse().unwrap()), own, "{address}");
        }
    }
}
