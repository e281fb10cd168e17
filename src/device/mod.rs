//! What makes a computer the appliance: the two slots of the card and who boots which, updates, the identity and the
//! network of one device, what it tells about itself.
//!
//! Everything here works on files and block devices below a [`Place`], so that tests hand in a directory. What changes the
//! machine runs as root, in short-lived helpers that systemd starts (`picloud device ..`); the daemon, which has no
//! privileges, only leaves requests in its data directory and reads what the helpers tell in [`Place::run`].
//! Used by `http` for status and requests, and by `cli` for the helpers. On a computer that was not booted from a card
//! image all of it is absent, and says so.

pub mod bundle;
pub mod clock;
mod desk;
mod disk;
mod error;
pub mod facts;
mod fetch;
mod files;
mod health;
mod image;
mod install;
mod network;
mod place;
pub mod prepare;
mod record;
mod recover;
mod reset;
mod settle;
mod state;
#[cfg(test)]
mod testing;
mod watch;

pub use self::desk::{Refused, Settings, Standing, Updates, Upload};
pub use self::disk::disk;
pub use self::error::Error;
pub use self::health::{Verdict, confirm, health};
pub use self::image::Image;
pub use self::install::{Daemon, NotReady, Order, install};
pub use self::place::Place;
pub use self::record::{Before, Phase, Progress, Report, Vitals};
pub use self::recover::{Recovery, recover};
pub use self::reset::{host_name, reset};
pub use self::settle::{GoBack, Journal, settle};
pub use self::state::{Boot, COPIES, COPY_BYTES, Slot, State};
pub use self::watch::{Look, watch};
