#![doc = include_str!("architecture.md")]

pub mod model;
pub mod store;
