//! HTTP: from the socket to the row and back, and the management API.
//!
//! [`listener`] counts guests and lets slow ones go, [`tls`] knows whom to show which certificate, [`server`] sends each request to its desk, [`ingress`] is
//! the data plane of the contract, [`management`] the API of its section 4. What an outcome's status is, only
//! [`reply`] knows. This room never touches the file: it posts commands and reads snapshots.

mod auth;
mod body;
mod clients;
mod cookies;
mod guest;
mod ingress;
mod listener;
mod logins;
mod management;
mod notice;
mod passwords;
mod pulse;
mod rate;
mod reply;
mod router;
mod server;
mod tls;
mod tries;

pub use clients::{Proxies, ProxyHeaders};
pub use ingress::Settings as IngressSettings;
pub use listener::{Door, Guests, Limits, Listener};
pub use logins::{Logins, SetupCode};
pub use management::{Custody, Network, SystemInfo, key_of, new_secret};
pub use notice::tell_closed;
pub use router::{Match, RouteTable};
pub use server::{Routes, Server, Settings, Staff};
pub use tls::{AcmeSettings, Error as TlsError, Settings as TlsSettings, Tls};

/// Bytes of base64 without padding, in the alphabet of URLs (RFC 4648 5); padding is forgiven.
pub fn decode_base64url(text: &[u8]) -> Option<Vec<u8>> {
    use base64::Engine;
    let bare = text.strip_suffix(b"==").or(text.strip_suffix(b"=")).unwrap_or(text);
    base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(bare).ok()
}
