//! `picloud call`: a request of the data plane, over a route or to a script directly.
//!
//! The answer's body goes to standard output as it came; what is about the answer goes to standard error unless the
//! headers were asked for. The api key stays at home unless `--with-key` says otherwise: scripts see what is sent.

use std::path::Path;
use std::process::ExitCode;

use serde_json::{Value, json};

use super::client::{self, Answer};
use super::error::Error;
use super::session::Session;
use super::{find, input};

/// What to call.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A method and a path of a route, a path alone, or a script by name or id
    #[arg(required = true, num_args = 1..=2, value_names = ["METHOD PATH | SCRIPT"])]
    target: Vec<String>,
    /// The Host header, for an app that claims that host
    #[arg(long)]
    host: Option<String>,
    /// The body: a text, @FILE, or - for standard input
    #[arg(short, long, value_name = "BODY", allow_hyphen_values = true)]
    data: Option<String>,
    /// A header, like 'accept: text/html'; may be repeated
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE", value_parser = header)]
    headers: Vec<(String, String)>,
    /// Print status and headers before the body
    #[arg(short, long)]
    include: bool,
    /// Send the api key along; the script that runs can read it
    #[arg(long)]
    with_key: bool,
    /// The app of a script that is named
    #[arg(long, value_name = "APP")]
    app: Option<String>,
}

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("must be like 'accept: text/html'")?;
    Ok((name.trim().to_ascii_lowercase(), value.trim().to_owned()))
}

/// Calls, prints the answer, and succeeds if its status is below 400.
pub(super) fn run(session: &mut Session<'_>, args: Args) -> Result<ExitCode, Error> {
    let call = request(session, args.target, args.app.as_deref(), args.data.as_deref())?;
    let mut call = client::Call { headers: args.headers, with_key: args.with_key, ..call };
    call.headers.extend(args.host.map(|host| ("host".to_owned(), host)));
    if call.body.is_some() && !call.headers.iter().any(|(name, _)| name == "content-type") {
        call.headers.push(("content-type".to_owned(), "application/json".to_owned()));
    }
    let answer = session.client.call(&call)?;
    if session.json {
        document(session, &answer)?
    } else {
        print(session, &answer, args.include)?
    }
    if answer.status == 401 && !args.with_key {
        session.note("this call needs an api key; --with-key sends yours")?;
    }
    Ok(if answer.status < 400 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Method, path and body of what was asked for.
fn request(
    session: &Session<'_>,
    target: Vec<String>,
    app: Option<&str>,
    data: Option<&str>,
) -> Result<client::Call, Error> {
    let body = data.map(body).transpose()?;
    let (method, path) = match <[String; 2]>::try_from(target) {
        Ok([method, path]) => (method.to_ascii_uppercase(), path),
        Err(target) => {
            let target = target.concat();
            if target.starts_with('/') {
                ((if body.is_some() { "POST" } else { "GET" }).to_owned(), target)
            } else {
                let id = find::script_anywhere(&session.client, app, &target)?;
                ("POST".to_owned(), format!("/api/execute/{id}"))
            }
        }
    };
    if !path.starts_with('/') {
        return Err(Error::Usage(format!(
            "{path}: a path begins with /; --host names a host, --url the daemon"
        )));
    }
    Ok(client::Call { method, path, headers: Vec::new(), body, with_key: false })
}

fn body(data: &str) -> Result<Vec<u8>, Error> {
    match data.strip_prefix('@') {
        Some(file) => input::bytes(Path::new(file)),
        None if data == "-" => input::bytes(Path::new("-")),
        None => Ok(data.as_bytes().to_vec()),
    }
}

fn print(session: &mut Session<'_>, answer: &Answer, include: bool) -> Result<(), Error> {
    let status = format!("{} {}", answer.status, answer.reason);
    if include {
        session.say(format_args!("HTTP/1.1 {status}"))?;
        for (name, value) in &answer.headers {
            session.say(format_args!("{name}: {value}"))?;
        }
        session.say("")?;
    } else {
        let execution = answer.header("x-execution-id").map(|id| format!(", execution {id}"));
        session.note(format!("{}{}", status.trim_end(), execution.unwrap_or_default()))?;
    }
    session.out.write_all(&answer.body)?;
    let is_bytes = std::str::from_utf8(&answer.body).is_err();
    if is_bytes || answer.body.is_empty() || answer.body.ends_with(b"\n") { Ok(()) } else { session.say("") }
}

/// The answer as one document; its body as JSON if it is some, else as text.
fn document(session: &mut Session<'_>, answer: &Answer) -> Result<(), Error> {
    let as_text = || Value::from(String::from_utf8_lossy(&answer.body));
    let body = serde_json::from_slice(&answer.body).unwrap_or_else(|_| as_text());
    let headers: Vec<Value> = answer.headers.iter().map(|(name, value)| json!([name, value])).collect();
    session.document(&json!({ "status": answer.status, "headers": headers, "body": body }))
}
