//! HTTP: from the socket to the row and back, and the management API.
//!
//! [`listener`] counts guests and lets slow ones go, [`server`] sends each request to its desk, [`ingress`] is
//! the data plane of the contract, [`management`] the API of its section 4. What an outcome's status is, only
//! [`reply`] knows. This room never touches the file: it posts commands and reads snapshots.

mod auth;
mod body;
mod ingress;
mod listener;
mod management;
mod rate;
mod reply;
mod router;
mod server;

pub use ingress::Settings as IngressSettings;
pub use listener::{Guests, Limits, Listener};
pub use management::{Custody, Network, SystemInfo, key_of, new_secret};
pub use router::{Match, RouteTable};
pub use server::{Routes, Server, Settings};
