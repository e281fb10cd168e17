//! The manual pages, from what the help texts and the reference of the configuration are made of.

use std::io::{self, Write};

use clap::{Arg, Command, CommandFactory};
use clap_mangen::Man;
use clap_mangen::roff::{Inline, Roff, bold, italic, roman};

use super::args::Cli;
use crate::config;

/// Which page.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(super) enum Page {
    /// picloud(1)
    #[value(name = "picloud.1")]
    Picloud,
    /// picloud.toml(5)
    #[value(name = "picloud.toml.5")]
    Configuration,
}

/// Files that the program and the daemon use: where, and what for.
const FILES: &[(&str, &str)] = &[
    ("/etc/picloud/picloud.toml", "The configuration; picloud.toml(5)."),
    (
        "/var/lib/picloud",
        "The data, of which a backup is made each day: the database, the admin key, certificates.",
    ),
    ("/var/lib/picloud/admin.key", "The first API key, which this program uses where it may read it."),
    (
        "/etc/credstore/picloud.api-key",
        "An admin key that the service takes as a credential, if it is there.",
    ),
    (
        "/var/lib/picloud/setup-code",
        "While there is no user: the code by which the first one is made, unless there is a credential.",
    ),
    (
        "/etc/credstore/picloud.setup-code",
        "A setup code that the service takes as a credential, if it is there.",
    ),
    ("/run/picloud/url", "Where the daemon that systemd started is found."),
];

/// Variables of the environment besides those of the configuration.
const ENVIRONMENT: &[(&str, &str)] = &[
    ("PICLOUD_URL", "The PiCloud to ask, as --url."),
    ("PICLOUD_API_KEY", "The API key to ask with; of the daemon, an admin key that needs no store."),
    ("PICLOUD_CA_FILE", "As --ca-file."),
    ("PICLOUD_CLIENT_CERT", "As --client-cert."),
    ("PICLOUD_<SECTION>_<KEY>", "A key of the configuration, for the daemon; picloud.toml(5)."),
];

/// Exit codes of the program (sysexits(3)).
const STATUSES: &[(&str, &str)] = &[
    ("0", "All is well."),
    ("1", "Something is broken, or was refused; standard error says what, and what to do."),
    ("64", "The arguments make no sense."),
    ("78", "The configuration is wrong; the message names the place."),
];

/// What a signal does to the daemon.
const SIGNALS: &[(&str, &str)] = &[
    (
        "SIGTERM, SIGINT",
        "What is under way is finished, then the daemon ends; a second one ends it at once, with status 1. While the store is still being opened the first does, with status 0.",
    ),
    (
        "SIGHUP",
        "Configuration and certificates are read again. With a terminal, which was closed then, it is as SIGTERM.",
    ),
];

/// Writes a page.
pub(super) fn write(page: Page, out: &mut dyn Write) -> io::Result<()> {
    match page {
        Page::Picloud => picloud(out),
        Page::Configuration => configuration(out),
    }
}

fn picloud(out: &mut dyn Write) -> io::Result<()> {
    // With `help` and what every verb inherits, as the help texts have it.
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    let manual = Man::new(command.clone()).section("1").date("").manual("PiCloud").source(version());
    manual.render_title(out)?;
    manual.render_name_section(out)?;
    manual.render_synopsis_section(out)?;
    manual.render_description_section(out)?;
    manual.render_options_section(out)?;
    let mut page = Roff::new();
    page.control("SH", ["COMMANDS"]);
    for verb in command.get_subcommands() {
        verbs(verb, "picloud", &mut page);
    }
    for (title, terms) in
        [("SIGNALS", SIGNALS), ("EXIT STATUS", STATUSES), ("ENVIRONMENT", ENVIRONMENT), ("FILES", FILES)]
    {
        page.control("SH", [title]);
        terms.iter().for_each(|(name, text)| term(&mut page, vec![bold(*name)], text));
    }
    page.control("SH", ["SEE ALSO"]);
    page.text([
        bold("picloud.toml"),
        roman("(5), "),
        bold("systemctl"),
        roman("(1), "),
        bold("journalctl"),
        roman("(1)"),
    ]);
    page.to_writer(out)
}

fn version() -> &'static str {
    concat!("picloud ", env!("CARGO_PKG_VERSION"))
}

/// A command that does something, or all those below it.
fn verbs(command: &Command, before: &str, page: &mut Roff) {
    if command.is_hide_set() || command.get_name() == "help" {
        return;
    }
    let name = format!("{before} {}", command.get_name());
    let below: Vec<&Command> = command.get_subcommands().filter(|verb| verb.get_name() != "help").collect();
    if below.is_empty() || !command.is_subcommand_required_set() {
        page.control("SS", [name.as_str()]);
        page.text([italic(usage(command, &name))]);
        if let Some(about) = command.get_long_about().or(command.get_about()) {
            page.control("PP", []);
            page.text([roman(sentence(&about.to_string()))]);
        }
        let own = command.get_arguments().filter(|arg| {
            !arg.is_hide_set() && !arg.is_global_set() && !matches!(arg.get_id().as_str(), "help" | "version")
        });
        own.for_each(|arg| argument(arg, page));
    }
    below.iter().for_each(|verb| verbs(verb, &name, page));
}

fn usage(command: &Command, name: &str) -> String {
    let usage = command.clone().bin_name(name).render_usage().to_string();
    usage.trim_start_matches("Usage: ").trim().to_owned()
}

fn argument(arg: &Arg, page: &mut Roff) {
    let flags = arg.get_short().map(|short| format!("-{short}"));
    let flags = flags.into_iter().chain(arg.get_long().map(|long| format!("--{long}")));
    let flags = flags.collect::<Vec<_>>().join(", ");
    let takes = arg.get_action().takes_values();
    let value = arg.get_value_names().filter(|_| takes).and_then(|names| names.first());
    let value = value.map(|value| value.to_string()).unwrap_or_default();
    let head = match (flags.is_empty(), value.is_empty()) {
        (true, _) => vec![italic(value)],
        (false, true) => vec![bold(flags)],
        (false, false) => vec![bold(flags), roman(" "), italic(value)],
    };
    let text = arg.get_long_help().or(arg.get_help()).map(ToString::to_string).unwrap_or_default();
    let choices: Vec<String> = arg
        .get_possible_values()
        .iter()
        .filter(|_| takes)
        .map(|choice| match choice.get_help() {
            Some(help) => format!("{} ({help})", choice.get_name()),
            None => choice.get_name().to_owned(),
        })
        .collect();
    let text = if choices.is_empty() {
        sentence(&text)
    } else {
        format!("{} One of {}.", sentence(&text), choices.join(", "))
    };
    term(page, head, &text);
}

fn term(page: &mut Roff, head: Vec<Inline>, text: &str) {
    page.control("TP", []);
    page.text(head);
    page.text([roman(text)]);
}

fn sentence(text: &str) -> String {
    let text = text.trim();
    if text.is_empty() || text.ends_with('.') { text.to_owned() } else { format!("{text}.") }
}

/// The commented reference as a page: tables are sections, keys are terms, comments their texts.
fn configuration(out: &mut dyn Write) -> io::Result<()> {
    let mut page = Roff::new();
    page.control("TH", ["picloud.toml", "5", "", version(), "PiCloud"]);
    page.control("SH", ["NAME"]);
    page.text([roman("picloud.toml - the configuration of PiCloud")]);
    page.control("SH", ["DESCRIPTION"]);
    let mut comment = Vec::new();
    let mut is_new = true;
    for line in config::REFERENCE.lines() {
        match (line.strip_prefix("# "), line.strip_prefix('#')) {
            (Some(text), _) => comment.push(text),
            (None, Some("")) => comment.push(""),
            (None, Some(key)) => {
                let (name, value) = key.split_once(" = ").unwrap_or((key, ""));
                let head = vec![bold(name), roman(" = "), italic(value)];
                term(&mut page, head, &comment.join(" "));
                comment.clear();
            }
            (None, None) if line.starts_with('[') => {
                paragraphs(&mut page, &mut comment);
                page.control("SH", [line]);
                is_new = true;
            }
            (None, None) if is_new => {
                paragraphs(&mut page, &mut comment);
                is_new = false;
            }
            (None, None) => {}
        }
    }
    paragraphs(&mut page, &mut comment);
    page.control("SH", ["SEE ALSO"]);
    page.text([bold("picloud"), roman("(1)")]);
    page.to_writer(out)
}

fn paragraphs(page: &mut Roff, comment: &mut Vec<&str>) {
    for text in comment.split(|line| line.is_empty()).filter(|lines| !lines.is_empty()) {
        page.text([roman(text.join(" "))]);
        page.control("PP", []);
    }
    comment.clear();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(page: Page) -> String {
        let mut text = Vec::new();
        write(page, &mut text).unwrap();
        // As it is read: without what marks fonts, and escapes.
        String::from_utf8(text)
            .unwrap()
            .replace("\\fB", "")
            .replace("\\fI", "")
            .replace("\\fR", "")
            .replace("\\-", "-")
    }

    #[test]
    fn every_command_and_flag_is_on_its_page() {
        let text = page(Page::Picloud);
        for wanted in [
            "picloud serve",
            "picloud cert renew",
            "picloud executions",
            "picloud resume",
            "--listen-tls ADDRESS",
            "--key-file",
            "EXIT STATUS",
        ] {
            assert!(text.contains(wanted), "{wanted} is missing");
        }
        assert!(!text.contains("rescue"), "what is hidden is no command for people");
        let mut command = Cli::command();
        command.build();
        for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set() && verb.get_name() != "help")
        {
            assert!(text.contains(&format!("picloud {}", verb.get_name())), "{}", verb.get_name());
        }
    }

    #[test]
    fn every_key_is_on_its_page_with_its_text() {
        let text = page(Page::Configuration);
        let keys = config::REFERENCE
            .lines()
            .filter_map(|line| line.strip_prefix('#'))
            .filter(|line| !line.starts_with(' ') && !line.is_empty());
        let mut count = 0;
        for key in keys {
            assert!(text.contains(key), "{key} is missing");
            count += 1;
        }
        assert!(count > 80, "{count}");
        let listen = text.find("listen = [\"127.0.0.1:8080\"]").unwrap();
        assert!(
            text[listen..]
                .trim_start_matches(|c| c != '\n')
                .trim_start()
                .starts_with("Addresses with ports to listen on")
        );
    }
}
