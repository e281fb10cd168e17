//! The daemon from outside: the real binary, real sockets, real signals, one module a feature.
//!
//! Each test starts its own daemon on a free port and an empty directory, so that all of them may run at once.
//! Nothing sleeps for luck: tests wait for what they want to see, and say what they missed when it does not come.

#![allow(clippy::unwrap_used, clippy::as_conversions, missing_docs, unreachable_pub)]

mod harness;
mod http;
mod peers;

mod asynchronous;
mod backups;
mod bad_scripts;
mod cli;
mod clock;
mod compaction;
mod concurrency;
mod connections;
mod context;
mod cron;
mod dead_letters;
mod device;
mod downloads;
mod drain;
mod egress;
mod executions;
mod fairness;
mod faults;
mod first_run;
mod full_disk;
mod hosts;
mod kills;
mod kv_api;
mod limits;
mod logs;
mod management;
mod ordering;
mod pages;
mod programs;
mod reload;
mod requests;
mod restart;
mod restore_cuts;
mod restores;
mod schemas;
mod sdk;
mod secrets;
mod starting;
mod status;
mod supervision;
mod system;
mod tidy;
mod tls;
mod tour;
mod triggers;
mod updates;
mod users;
mod wear;
