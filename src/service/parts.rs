//! From the configuration to what each room takes. The rooms do not know the configuration.

use std::path::PathBuf;
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::Duration;

use tokio::sync::mpsc;
use uuid::Uuid;

use super::{backups, first_run};
use crate::config::{self, Config};
use crate::model::{AppCeilings, UnixMs};
use crate::store::backup;
use crate::{device, dispatch, http, script, store};

pub(super) fn store(config: &Config) -> store::Settings {
    store::Settings {
        path: premises(config).store(),
        cache_bytes: config.store.cache_bytes,
        flush_interval: Duration::from_millis(config.store.flush_interval_ms),
        sync_delay: Duration::from_millis(config.store.sync_delay_ms),
        write_budget_bytes_per_day: config.card.write_budget_bytes_per_day,
        outbox_rows_max: config.outbox.rows_max,
        outbox_bytes_max: config.outbox.bytes_max,
        app_queue_rows_max: match config.apps.queue_rows {
            0 => config.outbox.rows_max.div_ceil(2),
            rows => rows,
        },
        log_bytes_max: config.executions.bytes_max,
        log_age_max: days(config.executions.age_max_days),
        dead_letters_max: config.dead_letters.rows_max,
        dead_letters_bytes_max: config.dead_letters.bytes_max,
        dead_letters_age_max: days(config.dead_letters.age_max_days),
        dead_letters_alert_at: config.dead_letters.alert_at,
        versions_bytes_max: config.versions.bytes_max,
        versions_age_max: days(config.versions.age_max_days),
        kv_bytes_max: config.apps.kv_bytes,
        timeout_async: Duration::from_secs(config.scripts.timeout_seconds_async.into()),
        space: store::Bounds {
            low_bytes: config.store.space_low_bytes,
            inodes_low: config.store.inodes_low,
            reserve_bytes: config.store.reserve_bytes,
        },
    }
}

pub(super) fn premises(config: &Config) -> backup::Premises {
    backup::Premises::new(&config.server.data_dir, kept_free_bytes(config))
}

/// Backups leave so much of the card that the store goes on taking work: its low-water mark, the eighth above it
/// from which on there is room again, and its reserve.
fn kept_free_bytes(config: &Config) -> u64 {
    let low = config.store.space_low_bytes;
    low.saturating_add(low / 8).saturating_add(config.store.reserve_bytes)
}

/// The desk for updates outlives a house, like what is fetched meanwhile.
pub(super) fn updates(config: &Config) -> device::Updates {
    device::Updates::new(device::Settings {
        place: device::Place::below(&config.device.root),
        directory: config.server.data_dir.join("device"),
        kept_free_bytes: kept_free_bytes(config),
        schema: store::SCHEMA,
    })
}

fn shelf(config: &Config) -> backup::Settings {
    let (backups, data_dir) = (&config.backups, &config.server.data_dir);
    let given = |path: &PathBuf| Some(path.clone()).filter(|path| !path.as_os_str().is_empty());
    backup::Settings {
        directory: given(&backups.directory).unwrap_or_else(|| data_dir.join("backups")),
        data_dir: data_dir.clone(),
        keep: backups.keep,
        bytes_max: backups.bytes_max,
        kept_free_bytes: kept_free_bytes(config),
        copy_to: given(&backups.copy_to),
    }
}

pub(super) fn custody(
    config: &Config,
    trial: backup::Trial,
    sealer: store::Sealer,
    reopen: mpsc::UnboundedSender<()>,
) -> http::Custody {
    http::Custody {
        backups: backup::Backups::new(shelf(config)),
        premises: premises(config),
        sealer,
        trial,
        reopen,
        admin_key: first_run::key_in_file(&config.server.data_dir, Uuid::now_v7(), UnixMs::now())
            .map(|key| key.hash),
        upload_bytes_max: config.backups.upload_bytes_max,
        upload_time_max: Duration::from_secs(config.server.body_timeout_seconds),
        restoring: Arc::default(),
    }
}

pub(super) fn schedule(config: &Config) -> Option<backups::Schedule> {
    let hours = Some(config.backups.interval_hours).filter(|hours| *hours > 0)?;
    Some(backups::Schedule {
        interval: Duration::from_secs(u64::from(hours) * 3600),
        start_delay: Duration::from_secs(config.backups.start_delay_seconds),
    })
}

/// Threads that are kept for runs beside those that wait for other servers, at most.
const ASIDE_MAX: usize = 64;

pub(super) fn executor(config: &Config) -> script::Settings {
    let cores = available_parallelism().map_or(1, std::num::NonZero::get);
    let benches = match config.scripts.threads {
        0 => (2 * cores).max(4),
        threads => threads,
    };
    script::Settings {
        benches,
        aside_max: config.egress.calls_max.min(ASIDE_MAX),
        queue_max: config.scripts.queue_max,
        app_concurrency: Some(config.apps.concurrency).filter(|runs| *runs > 0),
        timeout_async: Duration::from_secs(config.scripts.timeout_seconds_async.into()),
        cache_bytes: config.scripts.cache_bytes,
        limits: limits_of(&config.scripts.limits),
        ceilings: ceilings_of(&config.scripts.ceilings),
        env: config.env.clone(),
        leaked_bytes_max: config.scripts.leaked_bytes_max,
    }
}

/// Fails if the file of certificate authorities cannot be read.
pub(super) fn egress(config: &Config) -> std::io::Result<script::EgressSettings> {
    let egress = &config.egress;
    let given = Some(&egress.ca_file).filter(|path| !path.as_os_str().is_empty());
    Ok(script::EgressSettings {
        calls_max: egress.calls_max,
        answer_bytes_max: egress.answer_bytes_max,
        connect_time_max: Duration::from_secs(egress.connect_timeout_seconds),
        roots: given.map(std::fs::read).transpose()?,
    })
}

pub(super) fn policy(config: &Config) -> dispatch::Policy {
    let outbox = &config.outbox;
    dispatch::Policy {
        attempts_max: outbox.attempts_max,
        backoff_base: Duration::from_millis(outbox.backoff_base_ms),
        backoff_factor: outbox.backoff_factor,
        backoff_max: Duration::from_secs(outbox.backoff_max_seconds),
        age_max: Duration::from_secs(outbox.age_max_seconds),
        crashes_max: outbox.crashes_max,
        depth_max: outbox.trigger_depth_max,
    }
}

pub(super) fn clock(config: &Config) -> dispatch::ClockRule {
    match config.cron.clock {
        config::CronClock::Auto => dispatch::ClockRule::Auto,
        config::CronClock::Synchronised => dispatch::ClockRule::Synchronised,
        config::CronClock::Trusted => dispatch::ClockRule::Trusted,
    }
}

pub(super) fn limits(config: &Config) -> http::Limits {
    let server = &config.server;
    http::Limits {
        connections_max: server.connections_max,
        header_bytes_max: server.header_bytes_max,
        headers_max: server.headers_max,
        header_time_max: Duration::from_secs(server.header_timeout_seconds),
        write_time_max: Duration::from_secs(server.write_timeout_seconds),
    }
}

pub(super) fn server(
    config: &Config,
    device_key: Option<String>,
    chain_key: script::ChainKey,
    tls: Option<http::Tls>,
) -> http::Settings {
    http::Settings {
        ingress: http::IngressSettings {
            timeout_sync: Duration::from_secs(config.scripts.timeout_seconds_sync.into()),
            timeout_async: Duration::from_secs(config.scripts.timeout_seconds_async.into()),
            body_time_max: Duration::from_secs(config.server.body_timeout_seconds),
            bodies_bytes_max: config.server.bodies_bytes_max,
            requests_per_second: config.apps.requests_per_second,
        },
        proxies: http::Proxies {
            trusted: config.proxies.trust.clone(),
            headers: match config.proxies.header {
                config::ProxyHeader::XForwardedFor => http::ProxyHeaders::XForwardedFor,
                config::ProxyHeader::Forwarded => http::ProxyHeaders::Forwarded,
                config::ProxyHeader::None => http::ProxyHeaders::None,
            },
            protocol: config.proxies.protocol,
        },
        tls,
        network: http::Network { allow: config.management.allow.clone() },
        endurance_tbw: config.card.endurance_tbw,
        app_ceilings: AppCeilings { kv_bytes: config.apps.kv_bytes_max, queue_rows: config.outbox.rows_max },
        page_limit_max: config.management.page_limit_max,
        access_log: config.log.access,
        device_key,
        chain_key,
    }
}

fn limits_of(limits: &config::Limits) -> script::Limits {
    script::Limits {
        operations: limits.max_operations,
        memory_bytes: limits.max_memory_bytes,
        string_bytes: size(limits.max_string_bytes),
        array_items: size(limits.max_array_items),
        map_entries: size(limits.max_map_entries),
        call_levels: size(limits.max_call_levels),
        ..script::Limits::default()
    }
}

fn ceilings_of(limits: &config::Limits) -> script::Ceilings {
    script::Ceilings {
        operations: limits.max_operations,
        memory_bytes: limits.max_memory_bytes,
        string_bytes: limits.max_string_bytes,
        array_items: limits.max_array_items,
        map_entries: limits.max_map_entries,
        call_levels: limits.max_call_levels,
    }
}

fn days(days: u32) -> Duration {
    Duration::from_secs(u64::from(days) * 24 * 3600)
}

fn size(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}
