//! The store against a reference, on a disk that loses its power at every point and fails at every operation.
//!
//! A history is a stream of commands that a seed decides: see [`plans`]. It is played once, on one thread, on a
//! [`disk`] that remembers every write; afterwards the power is cut before each of them, and what is left, torn and
//! reordered as chance wants it, is opened and held against the [`world`]s that the [`life`] allows. `power_cuts` is
//! the test and its count, `bites` proves that it catches a store which is broken on purpose, `faults` lets the disk
//! fail instead. What runs change goes the real way, through views that are opened before others commit: see
//! [`effects`].
//!
//! A command or a table that the store gains belongs into [`plans`], [`world`] and [`found`]; a table that is
//! forgotten fails every cut. Some histories begin with a file of an earlier release: see
//! [`schemas`].

mod bites;
mod chance;
mod disk;
mod effects;
mod faults;
mod found;
mod history;
mod life;
mod plans;
mod player;
mod power_cuts;
mod schemas;
mod setup;
mod world;
