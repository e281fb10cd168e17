//! Update bundles: a tar archive of the facts in JSON, their signature, and a slot's file system, in this order.
//!
//! `manifest.json` (at most 64 KiB), `manifest.sig` (64 bytes: Ed25519 over exactly the bytes of the first), and
//! `slot.ext4.zst`, whose SHA-256 and sizes stand in the facts. All of it is read once, in order, in bounded memory. The
//! daemon checks a bundle before it keeps one, and root's helper checks all of it again: it trusts nothing that the
//! daemon can write.

mod error;
mod keys;
mod make;
mod read;
#[cfg(test)]
mod tests;

pub use self::error::BundleError;
pub use self::keys::Keys;
pub use self::make::{Recipe, Unmade};
pub use self::read::{Manifest, read};
