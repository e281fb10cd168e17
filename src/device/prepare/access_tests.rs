//! Who is let in: setup codes, keys and passwords, as the manual tells people to write them.

use super::testing::{Board, HASH, KEY};
use super::*;

#[test]
fn the_code_goes_from_the_console_once_a_user_exists() {
    let board = Board::new();
    board.start();
    let code = board.read("data/identity/setup-code").unwrap();
    assert!(board.read("run/issue.d/picloud.issue").unwrap().contains(code.trim()));
    board.put("data/picloud/device/set-up", "");
    announce(&board.place()).unwrap();
    let banner = board.read("run/issue.d/picloud.issue").unwrap();
    assert!(!banner.contains(code.trim()) && banner.contains("picloud-beef.local"), "{banner}");
    board.start_anew();
    assert!(!board.read("run/issue.d/picloud.issue").unwrap().contains(code.trim()));
}

#[test]
fn the_longest_code_is_on_the_console() {
    let board = Board::new();
    let code = ["12345678"; 8].join("--------");
    board.drop_file("picloud.toml", format!("[admin]\nsetup_code = \"{code}\"\n"));
    assert!(board.start().errors.is_empty());
    assert!(board.read("run/issue.d/picloud.issue").unwrap().contains(&code));
}

#[test]
fn the_example_of_the_manual_is_taken() {
    let manual = include_str!("../../../image/README.md");
    let (_, example) = manual.split_once("```toml\n").unwrap();
    let (example, _) = example.split_once("```").unwrap();
    // Also with the lines that wait for values of one's own.
    let lines = example
        .lines()
        .map(|line| line.strip_prefix("# ").filter(|line| line.contains(" = ")).unwrap_or(line));
    let own = lines.collect::<Vec<_>>().join("\n");
    let own = own
        .replace("SETUP-CODE", "a-code-7777")
        .replace("ADMIN-KEY", "an-admin-key-of-the-fleet")
        .replace("PUBLIC-KEY", KEY);
    for text in [example.to_owned(), own] {
        let board = Board::new();
        board.drop_file("picloud.toml", &text);
        let prepared = board.start();
        assert!(prepared.errors.is_empty() && prepared.complaints.is_empty(), "{prepared:?}");
        assert_eq!(prepared.host_name, "boat");
    }
}

#[test]
fn a_password_opens_the_network_only_where_nothing_else_does() {
    for (ssh, by_password) in [
        (format!("password_hash = \"{HASH}\""), "yes"),
        (format!("password_hash = \"{HASH}\"\nauthorized_keys = [\"{KEY}\"]"), "no"),
        (format!("password_hash = \"{HASH}\"\nauthorized_keys = [\"{KEY}\"]\npassword_login = true"), "yes"),
        (format!("password_hash = \"{HASH}\"\npassword_login = false"), "no"),
        ("password_login = true".to_owned(), "no"),
    ] {
        let board = Board::new();
        board.drop_file("picloud.toml", format!("[ssh]\n{ssh}\n"));
        assert!(board.start().errors.is_empty());
        let told = board.read("run/picloud-device/sshd.conf").unwrap();
        assert!(told.ends_with(&format!("PasswordAuthentication {by_password}\n")), "{ssh}: {told}");
        let is_open = ssh.contains("authorized_keys") || by_password == "yes";
        assert_eq!(board.read("run/picloud-device/ssh-enabled").is_some(), is_open, "{ssh}");
    }
}

#[test]
fn a_password_from_imager_is_for_the_console_where_ssh_is_off() {
    let board = Board::new();
    let user = format!("[user]\nname = \"admin\"\npassword = \"{HASH}\"\npassword_encrypted = true\n");
    board.drop_file("rpi-preseed.toml", format!("config_version = \"1.0\"\n{user}"));
    assert!(board.start().errors.is_empty());
    assert!(board.read("run/picloud-device/shadow-admin").unwrap().contains(HASH));
    assert!(board.read("run/picloud-device/sshd.conf").unwrap().ends_with("PasswordAuthentication no\n"));
    assert_eq!(board.read("run/picloud-device/ssh-enabled"), None);
}
