#![doc = include_str!("architecture.md")]

pub mod cli;
pub mod config;
pub mod device;
pub mod dispatch;
pub mod http;
pub mod model;
pub mod script;
pub mod service;
pub mod store;
