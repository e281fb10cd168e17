//! `picloud status`: health, readiness and version of the device, and what its card takes, on one screen.
//!
//! Whoever has no api key is told the first part only.

use std::process::ExitCode;

use serde_json::{Value, json};

use super::error::Error;
use super::render::{self, field, text};
use super::session::Session;
use super::units;

/// Asks, prints, and succeeds if the device is ready.
pub(super) fn run(session: &mut Session<'_>) -> Result<ExitCode, Error> {
    let (_, version) = session.client.probe("/api/v1/version")?;
    let (_, health) = session.client.probe("/api/v1/health")?;
    let (ready_status, ready) = session.client.probe("/api/v1/ready")?;
    let is_ready = ready_status == 200 && ready["ready"] == true;
    let (told, device) = session.client.probe("/api/v1/status")?;
    let device = (told == 200).then_some(device);
    let url = session.client.url().to_owned();
    if session.json {
        let all =
            json!({ "url": url, "version": version, "health": health, "ready": ready, "status": device });
        session.document(&all)?;
    } else {
        let mut rows = vec![
            vec!["url".to_owned(), url],
            vec!["version".to_owned(), text(&version["version"])],
            vec!["health".to_owned(), text(&health["status"])],
            vec!["ready".to_owned(), (if is_ready { "yes" } else { "no" }).to_owned()],
        ];
        for (answer, told) in [(&version, "version"), (&health, "status"), (&ready, "ready")] {
            rows.extend(others(answer, told));
        }
        rows.extend(device.as_ref().into_iter().flat_map(figures));
        session.say(render::aligned(&rows))?;
    }
    if told == 401 {
        session.note(
            "what the card takes is told to holders of an api key: set PICLOUD_API_KEY or --key-file",
        )?;
    }
    Ok(if is_ready { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Ends safe mode.
pub(super) fn resume(session: &mut Session<'_>) -> Result<(), Error> {
    let answer = session.client.post("/api/v1/resume", &json!({}), "safe mode")?;
    let line = if answer["resumed"] == true {
        "safe mode ended: scripts run again"
    } else {
        "this device is not in safe mode"
    };
    session.told(line, &answer)
}

/// What an answer says beyond its main field.
fn others(answer: &Value, told: &str) -> Vec<Vec<String>> {
    let fields = answer.as_object().into_iter().flatten().filter(|(name, _)| *name != told);
    fields.map(|(name, _)| vec![render::clean(name), field(answer, name)]).collect()
}

/// What the device counts, a line each.
fn figures(device: &Value) -> Vec<Vec<String>> {
    let (store, executions) = (&device["store"], &device["executions"]);
    let (outbox, letters) = (&device["outbox"], &device["dead_letters"]);
    let failed: u64 =
        ["error", "timeout", "budget_exceeded"].iter().filter_map(|kind| executions[*kind].as_u64()).sum();
    let lines = [
        (
            "executions",
            format!("{} succeeded, {failed} failed since the start", text(&executions["success"])),
        ),
        ("outbox", format!("{} rows, {}", text(&outbox["rows"]), bytes(&outbox["bytes"]))),
        ("dead letters", format!("{}, {}", text(&letters["rows"]), bytes(&letters["bytes"]))),
        ("memory", bytes(&device["resident_bytes"])),
        (
            "store",
            format!("{}, of it {} log", bytes(&store["file_bytes"]), bytes(&store["execution_log_bytes"])),
        ),
        ("card", card(&device["card"])),
        ("syncs", syncs(&device["card"])),
        ("budget", budget(&device["budget"])),
    ];
    let mut rows: Vec<Vec<String>> = lines.map(|(name, line)| vec![name.to_owned(), line]).into();
    rows.extend(hardware(&device["device"]));
    rows
}

/// What the computer tells about itself; what is not known has no line.
fn hardware(device: &Value) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    let mut tell = |name: &str, line: String| rows.push(vec![name.to_owned(), line]);
    if let Value::String(model) = &device["board"]["model"] {
        tell("board", format!("{}, {}", render::clean(model), degrees(&device["temperature_celsius"])));
    }
    let (image, boot) = (&device["image"], &device["boot"]);
    if device["appliance"] == true {
        let slot = format!("slot {}", text(&boot["slot"]));
        let trial = if boot["pending"].is_null() { "" } else { ", an update on trial" };
        tell("image", format!("{} of {}, {slot}{trial}", text(&image["version"]), text(&image["build"])));
    }
    let data = &device["data"];
    if !data.is_null() {
        let errors = match data["errors"].as_u64() {
            Some(errors) if errors > 0 => format!("; {errors} ERRORS of the file system"),
            _ => String::new(),
        };
        let read_only = if data["read_only"] == true { "; READ ONLY" } else { "" };
        let missing = if data["missing_because"].is_null() { "" } else { "; NOT IN USE, nothing is kept" };
        let room = format!("{} free of {}", bytes(&data["free_bytes"]), bytes(&data["total_bytes"]));
        tell("data", format!("{room}{errors}{read_only}{missing}"));
    }
    let list = |value: &Value| {
        let items = value.as_array().into_iter().flatten().filter_map(Value::as_str).map(render::clean);
        items.collect::<Vec<_>>().join(", ")
    };
    let addresses = list(&device["network"]["addresses"]);
    if !addresses.is_empty() {
        tell("network", format!("{} at {addresses}", text(&device["host_name"])));
    }
    let wrong = list(&device["provisioning"]["errors"]);
    if !wrong.is_empty() {
        tell("NOT APPLIED", wrong);
    }
    rows
}

fn degrees(celsius: &Value) -> String {
    celsius.as_f64().map_or_else(|| "temperature unknown".to_owned(), |celsius| format!("{celsius:.0} °C"))
}

/// How long the card lasts.
fn card(card: &Value) -> String {
    let written =
        format!("{} written, {} a day", bytes(&card["total_bytes_written"]), bytes(&card["bytes_per_day"]));
    let lasts = card["years_left"].as_f64().map_or_else(
        || "nothing wears it".to_owned(),
        |left| {
            format!(
                "a card of {} TBW lasts {} at this rate",
                text(&card["endurance_tbw"]),
                units::years(left)
            )
        },
    );
    let measured = card["measured_seconds"].as_u64().unwrap_or_default();
    // Hours of a young store say little about years.
    let over =
        if measured < 86_400 { format!(" (measured over {})", units::span(measured)) } else { String::new() };
    format!("{written}; {lasts}{over}")
}

fn syncs(card: &Value) -> String {
    let each = card["mean_sync_ms"].as_f64().map_or_else(String::new, |ms| format!(" of {ms:.1} ms"));
    let factor = card["write_amplification"].as_f64();
    let factor =
        factor.map_or_else(String::new, |factor| format!("; {factor:.1} bytes written for each byte kept"));
    format!("{}{each}, {} commits since the start{factor}", text(&card["fsyncs"]), text(&card["commits"]))
}

fn budget(budget: &Value) -> String {
    let allowed = &budget["bytes_per_day"];
    if allowed == 0 {
        return "none".to_owned();
    }
    let stands = if budget["over"] == true {
        format!(
            "EXCEEDED: relaxed calls are flushed every {}, the log is kept shorter",
            field(budget, "flush_interval_ms")
        )
    } else {
        format!("{} left now", bytes(&budget["left_bytes"]))
    };
    format!("{} a day, {stands}", bytes(allowed))
}

fn bytes(value: &Value) -> String {
    value.as_f64().map_or_else(|| text(value), units::bytes)
}
