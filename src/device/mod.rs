//! What makes a computer the appliance: the two slots of the card and who boots which, updates, the identity and the
//! network of one device, what it tells about itself.
//!
//! Everything here works on files and block devices below a [`Place`], so that tests hand in a directory. What changes the
//! machine runs as root, in short-lived helpers that systemd starts (`picloud device ..`); the daemon, which has no
//! privileges, only leaves requests in its data directory and reads what the helpers tell in [`Place::run`].
//! Used by `http` for status and requests, and by `cli` for the helpers. On a computer that was not booted from a card
//! image all of it is absent, and says so.

pub mod clock;
pub mod facts;
mod place;
pub mod prepare;

pub use self::place::Place;
