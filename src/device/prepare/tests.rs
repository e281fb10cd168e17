//! What a device makes of the files on its boot partition, and what it leaves at each power cut.

use std::cell::Cell;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;

use super::testing::{Board, HASH, KEY};
use super::*;

/// A file with everything that can be set.
const FULL: &str = r#"# The boat
[device]
hostname = "Boat" # lower case in the end
timezone = "Europe/Berlin"
keymap = "de"
time_urls = ["http://time.example"]
journal = "volatile"

[ethernet]
address = "192.168.7.2/24"
gateway = "192.168.7.1"
dns = ["9.9.9.9"]

[wifi]
ssid = "Möwe \"7\""
#password = "it is \me"
password = 'it is \me'
country = "de"
hidden = true

[ssh]
authorized_keys = ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJmZz3mZz3mZz3mZz3mZz3mZz3mZz3mZz3mZz3mZz3mZ me@desk"]
password_hash = "$6$saltsalt$abcdefghijklmnopqrstuvwxyzABCDEFGHIJ./0123456789"

[admin]
key = "an-admin-key-of-the-fleet"
setup_code = "boat-7777-code"

[scripts]
threads = 4

[env]
site = "The boat"
"#;
const PRESEED: &str = r#"config_version = "1.0"
[system]
hostname = "kitchen"
[user]
name = "pi"
password = "$6$saltsalt$abcdefghijklmnopqrstuvwxyzABCDEFGHIJ./0123456789"
password_encrypted = true
groups = ["sudo"]
passwordless_sudo = true
[ssh]
enabled = true
password_authentication = false
authorized_keys = ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJmZz3mZz3mZz3mZz3mZz3mZz3mZz3mZz3mZz3mZz3mZ me@desk"]
[wlan]
ssid = "Home \\ \"sweet\" home"
password = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
password_encrypted = true
hidden = false
country = "GB"
[locale]
keymap = "gb"
timezone = "Europe/London"
[connect]
enabled = true
token = "a-key-of-connect"
"#;

/// What a file that is wrong is told to be.
#[track_caller]
fn check_wrong(name: &str, text: impl AsRef<[u8]>, wanted: &[&str]) {
    let board = Board::new();
    board.start();
    let before = board.read("data/identity/settings.toml");
    board.drop_file(name, text.as_ref());
    let prepared = board.start_anew();
    let all = prepared.errors.join("\n");
    for part in wanted {
        assert!(prepared.errors.iter().any(|error| error.contains(part)), "{part:?} is not told in\n{all}");
    }
    assert_eq!(prepared.errors.len(), wanted.len(), "\n{all}");
    assert_eq!(board.read("data/identity/settings.toml"), before, "the settings have changed");
    let told = board.read("boot/firmware/PROVISION-ERROR.txt").expect("PROVISION-ERROR.txt is written");
    assert!(prepared.errors.iter().all(|error| told.contains(error.as_str())), "{told}");
    assert!(board.read("run/issue.d/picloud.issue").unwrap().contains("Not applied: "));
    let stays = fs::read(board.path().join("boot/firmware").join(name)).unwrap();
    assert_eq!(stays, text.as_ref(), "the file has changed");
    assert!(prepared.complaints.is_empty(), "{prepared:?}");
}

/// One table or two of `picloud.toml`, and the only thing that is wrong with them.
#[track_caller]
fn wrong(text: &str, wanted: &str) {
    check_wrong("picloud.toml", text, &[wanted]);
}

#[test]
fn a_device_without_files_has_a_name_and_dhcp() {
    let board = Board::new();
    let prepared = board.start();
    assert_eq!(
        (prepared.host_name.as_str(), prepared.errors.len(), prepared.complaints.len()),
        ("picloud-beef", 0, 0)
    );
    assert_eq!(board.read("run/hostname").as_deref(), Some("picloud-beef\n"));
    assert_eq!(board.read("data/identity/hostname").as_deref(), Some("picloud-beef\n"));
    let cable = board.read("run/systemd/network/20-picloud-ethernet.network").unwrap();
    assert!(cable.contains("DHCP=yes\n") && cable.contains("MulticastDNS=yes\nLLMNR=no\n"), "{cable}");
    let files = board.files();
    for (path, mode) in [
        ("run/picloud-device/api-key", 0o600),
        ("run/picloud-device/setup-code", 0o600),
        ("data/identity/setup-code", 0o600),
        ("run/picloud-device/shadow-admin", 0o600),
        ("run/picloud-device/picloud.toml", 0o644),
        ("run/picloud-device/boot.json", 0o644),
    ] {
        assert_eq!(files[path].0, mode, "{path}");
    }
    for absent in ["ssh-enabled", "authorized_keys", "wpa_supplicant-wlan0.conf", "vconsole.conf"] {
        assert_eq!(board.read(&format!("run/picloud-device/{absent}")), None, "{absent}");
    }
    assert_eq!(files["run/picloud-device/localtime"].1, "/usr/share/zoneinfo/UTC");
    assert_eq!(files["run/picloud-device/shadow-admin"].1, "admin:*:20000:0:99999:7:::\n");
    assert_eq!(files["run/picloud-device/boot.json"].1, r#"{"boot_id":null,"pending":null,"slot":"A"}"#);
    assert!(files["run/picloud-device/picloud.toml"].1.contains("queue_max = 7"));
    assert!(files["run/systemd/dnssd/picloud-http.dnssd"].1.contains("Name=%H\nType=_http._tcp\nPort=80\n"));
    assert!(files["run/systemd/dnssd/picloud-https.dnssd"].1.contains("Port=443\n"));
    let code = files["data/identity/setup-code"].1.trim().to_owned();
    assert_eq!((code.len(), &code[4..5]), (9, "-"), "{code}");
    assert!(!code.contains(['0', '1', 'O', 'I']), "{code}");
    let identity = fs::metadata(board.place().identity()).unwrap().permissions().mode();
    assert_eq!(identity & 0o777, 0o700);
    let banner = &files["run/issue.d/picloud.issue"].1;
    for part in ["PiCloud 0.1.0", "slot A", "http://picloud-beef.local", "\\4", "\\6", code.as_str()] {
        assert!(banner.contains(part), "{part} in {banner}");
    }
}

#[test]
fn identity_stays_and_keys_of_a_boot_go() {
    let board = Board::new();
    board.start();
    let first = board.files();
    assert_eq!(board.start().host_name, "picloud-beef");
    assert_eq!(board.files(), first, "a second run changed something");
    // Another board, another boot.
    board.put("sys/firmware/devicetree/base/serial-number", "000000000000CAFE\0");
    board.put("data/identity/api-key", "short");
    board.start_anew();
    let again = board.files();
    for stays in ["data/identity/hostname", "data/identity/setup-code", "run/picloud-device/setup-code"] {
        assert_eq!(again[stays], first[stays], "{stays}");
    }
    board.put("data/identity/api-key", "a-key-that-was-put-there\n");
    board.start_anew();
    assert_eq!(board.read("run/picloud-device/api-key").as_deref(), Some("a-key-that-was-put-there\n"));
}

#[test]
fn a_board_without_a_serial_number_is_named_after_its_identity() {
    let board = Board::new();
    board.put("sys/firmware/devicetree/base/serial-number", "0000000000000000\0");
    board.put("data/identity/machine-id", "0123456789abcdef0123456789ab7e57\n");
    assert_eq!(board.start().host_name, "picloud-7e57");
}

#[test]
fn a_full_file_is_applied_redacted_and_put_aside() {
    let board = Board::new();
    board.drop_file("PROVISION-ERROR.txt", "of before");
    board.drop_file("picloud.toml", FULL);
    let prepared = board.start();
    assert!(prepared.errors.is_empty() && prepared.complaints.is_empty(), "{prepared:?}");
    assert_eq!(prepared.host_name, "boat");
    assert_eq!(
        (board.read("boot/firmware/picloud.toml"), board.read("boot/firmware/PROVISION-ERROR.txt")),
        (None, None)
    );
    let applied = board.read("boot/firmware/picloud.toml.applied").unwrap();
    let wanted = FULL
        .replace("#password = \"it is \\me\"", "#password = \"(removed)\"")
        .replace("'it is \\me'", "\"(removed)\"")
        .replace("an-admin-key-of-the-fleet", "(removed)")
        .replace("boat-7777-code", "(removed)")
        .replace(HASH, "(removed)");
    assert_eq!(applied, wanted);
    let files = board.files();
    let text = |path: &str| files[&format!("run/{path}")].1.clone();
    assert!(
        text("systemd/network/20-picloud-ethernet.network").contains("Address=192.168.7.2/24\nDNS=9.9.9.9\n")
    );
    assert!(text("systemd/network/25-picloud-wireless.network").contains("DHCP=yes\n"));
    let air = text("picloud-device/wpa_supplicant-wlan0.conf");
    for line in [
        "country=DE",
        "\tssid=4dc3b67765202237 22".replace(' ', "").as_str(),
        "\tscan_ssid=1",
        "\tpsk=3dc93f7d8da64d7991ee405c9c5c2bab55775f6778b7a192e0496a762841e353",
    ] {
        assert!(air.lines().any(|told| told == line), "{line} in\n{air}");
    }
    assert_eq!(files["run/picloud-device/wpa_supplicant-wlan0.conf"].0, 0o600);
    assert_eq!(text("picloud-device/localtime"), "/usr/share/zoneinfo/Europe/Berlin");
    assert!(text("picloud-device/vconsole.conf").ends_with("KEYMAP=de\n"));
    assert_eq!(text("picloud-device/time-urls"), "http://time.example\n");
    assert_eq!(text("picloud-device/api-key"), "an-admin-key-of-the-fleet\n");
    assert_eq!(text("picloud-device/setup-code"), "boat-7777-code\n");
    assert_eq!(text("picloud-device/authorized_keys"), format!("{KEY}\n"));
    assert_eq!(text("picloud-device/shadow-admin"), format!("admin:{HASH}:20000:0:99999:7:::\n"));
    assert!(text("picloud-device/sshd.conf").ends_with("PasswordAuthentication no\n"));
    assert_eq!(text("picloud-device/ssh-enabled"), "");
    let daemon: toml::Table = toml::from_str(&text("picloud-device/picloud.toml")).unwrap();
    assert_eq!(daemon["scripts"]["threads"].as_integer(), Some(4));
    assert_eq!(daemon["scripts"]["queue_max"].as_integer(), Some(7), "what the image says stays");
    assert_eq!(daemon["env"]["site"].as_str(), Some("The boat"));
    assert_eq!(files["data/identity/settings.toml"].0, 0o600);
    assert_eq!(files["data/identity/journal-volatile"].1, "");
    assert!(board.start_anew().errors.is_empty());
    assert_eq!(board.files(), files, "the next boot is the same");
}

#[test]
fn files_are_taken_as_computers_write_them() {
    for (text, name) in [
        ("[device]\r\nhostname = \"a\"\r\n".to_owned(), "a"),
        ("\u{feff}[device]\nhostname = \"b\"".to_owned(), "b"),
        ("\u{feff}[device]\r\nhostname = \"c\"\r\n[ethernet]\r\n".to_owned(), "c"),
        ("# only words\n".to_owned(), "picloud-beef"),
        ("[device]\nhostname = \"\"\n".to_owned(), "picloud-beef"),
    ] {
        let board = Board::new();
        board.drop_file("picloud.toml", &text);
        let prepared = board.start();
        assert_eq!((prepared.host_name.as_str(), prepared.errors.len()), (name, 0), "{text:?} {prepared:?}");
    }
}

#[test]
fn what_imager_writes_is_taken() {
    let board = Board::new();
    board.drop_file("rpi-preseed.toml", PRESEED);
    let prepared = board.start();
    assert_eq!((prepared.host_name.as_str(), prepared.errors.len()), ("kitchen", 0), "{prepared:?}");
    let login = "the login of this device is admin, not pi";
    assert!(prepared.notes.iter().any(|note| note == login), "{prepared:?}");
    let applied = board.read("boot/firmware/rpi-preseed.toml.applied").unwrap();
    assert!(applied.contains(&format!("# Note: {login}\n")), "{applied}");
    assert!(!applied.contains("00112233") && !applied.contains("saltsalt"), "{applied}");
    assert!(!applied.contains("a-key-of-connect"), "{applied}");
    let air = board.read("run/picloud-device/wpa_supplicant-wlan0.conf").unwrap();
    let ssid: String = r#"Home \ "sweet" home"#.bytes().map(|byte| format!("{byte:02x}")).collect();
    for line in [format!("ssid={ssid}"), format!("psk={}", &"00112233445566778899aabbccddeeff".repeat(2))] {
        assert!(air.lines().any(|told| told.trim() == line), "{line} in\n{air}");
    }
    assert!(board.read("run/picloud-device/sshd.conf").unwrap().ends_with("PasswordAuthentication no\n"));
    assert!(board.read("run/picloud-device/shadow-admin").unwrap().contains(HASH));
    assert_eq!(board.read("run/picloud-device/ssh-enabled").as_deref(), Some(""));
    // A later Imager knows more than this device.
    let board = Board::new();
    board.drop_file(
        "rpi-preseed.toml",
        "config_version = \"1.0\"\n[system]\nhostname = \"boat\"\nlater = \"than-this-device\"\n[new]\nx = \"a-new-secret\"\n",
    );
    let prepared = board.start();
    assert_eq!((prepared.host_name.as_str(), prepared.errors.len()), ("boat", 0), "{prepared:?}");
    let applied = board.read("boot/firmware/rpi-preseed.toml.applied").unwrap();
    assert!(applied.contains("unknown key system.later") && applied.contains("unknown key new"), "{applied}");
    assert!(!applied.contains("than-this-device") && !applied.contains("a-new-secret"), "{applied}");
    // Ours comes first; Imager's has the last word, where it has one.
    let board = Board::new();
    board.drop_file("picloud.toml", FULL);
    board.drop_file("rpi-preseed.toml", "config_version = \"1.0\"\n[system]\nhostname = \"last\"\n");
    assert_eq!(board.start().host_name, "last");
    assert!(board.read("run/picloud-device/picloud.toml").unwrap().contains("threads = 4"));
}

#[test]
fn later_files_change_what_they_name() {
    let board = Board::new();
    board.drop_file("picloud.toml", FULL);
    board.start();
    // The file of before with another name: its secrets stand for what they were.
    let applied = board.read("boot/firmware/picloud.toml.applied").unwrap();
    board.drop_file("picloud.toml", applied.replace("\"Boat\"", "\"ship\""));
    let prepared = board.start_anew();
    assert_eq!((prepared.host_name.as_str(), prepared.errors.len()), ("ship", 0), "{prepared:?}");
    assert!(
        board
            .read("run/picloud-device/wpa_supplicant-wlan0.conf")
            .unwrap()
            .contains("psk=3dc93f7d8da64d7991ee405c9c5c2bab55775f6778b7a192e0496a762841e353")
    );
    assert_eq!(board.read("run/picloud-device/api-key").as_deref(), Some("an-admin-key-of-the-fleet\n"));
    // Tables that are there replace, those that are not stay, empty ones take back.
    board.drop_file(
        "picloud.toml",
        "[wifi]\n[ethernet]\n[scripts]\nqueue_max = 9\n[ssh]\nauthorized_keys = []\n",
    );
    assert_eq!(board.start_anew().host_name, "ship");
    assert_eq!(board.read("run/picloud-device/wpa_supplicant-wlan0.conf"), None);
    assert!(board.read("run/systemd/network/20-picloud-ethernet.network").unwrap().contains("DHCP=yes"));
    let daemon = board.read("run/picloud-device/picloud.toml").unwrap();
    assert!(daemon.contains("queue_max = 9") && !daemon.contains("threads"), "{daemon}");
    assert_eq!(board.read("run/picloud-device/authorized_keys"), None);
    assert_eq!(board.read("run/picloud-device/ssh-enabled").as_deref(), Some(""), "the password still opens");
    // The secret of another network is not this one's.
    check_wrong(
        "picloud.toml",
        "[wifi]\nssid = \"other\"\npassword = \"(removed)\"\ncountry = \"DE\"\n",
        &["line 3: wifi.password was removed when the file was applied"],
    );
}

#[test]
fn everything_that_is_wrong_is_told_at_once() {
    let text = "[device]\nhostname = \"a_b\"\ntimezone = 3\nname = \"x\"\n[wifi]\nssid = \"x\"\npassword = \"short\"\n\
                [scripts]\nthreads = -1\nthread = 4\n[sripts]\nthreads = 1\n";
    check_wrong(
        "picloud.toml",
        text,
        &[
            "picloud.toml, line 2: device.hostname must be a name",
            "line 3: device.timezone must be a text",
            "line 4: unknown key device.name; [device] has hostname, timezone",
            "line 6: wifi.country is missing",
            "line 7: wifi.password must be 8 to 63",
            "line 9: scripts.threads must be",
            "line 10: unknown key scripts.thread",
            "line 11: unknown table or key sripts; the file has [device], [ethernet], [wifi]",
        ],
    );
}

#[test]
fn files_that_are_no_settings_change_nothing() {
    check_wrong("picloud.toml", "", &["picloud.toml is empty"]);
    check_wrong("picloud.toml", " \r\n", &["picloud.toml is empty"]);
    check_wrong("picloud.toml", b"[wifi]\nssid = \"M\xf6we\"\n", &["line 2: this is not UTF-8"]);
    check_wrong(
        "picloud.toml",
        vec![b'#'; 1024 * 1024],
        &["picloud.toml cannot be read: it has more than 65536 bytes"],
    );
    check_wrong(
        "rpi-preseed.toml",
        &PRESEED[..PRESEED.find("sweet").unwrap()],
        &["rpi-preseed.toml, line 15: "],
    );
    check_wrong("picloud.toml", b"\0\0\0\0", &["picloud.toml, line 1: ", "line 1: key"]);
    // As long as it is wrong, both files are looked at, and the good one is taken.
    let board = Board::new();
    board.drop_file("picloud.toml", "[device]\nhostname = 7\n");
    board.drop_file("rpi-preseed.toml", PRESEED);
    let prepared = board.start();
    assert_eq!((prepared.host_name.as_str(), prepared.errors.len()), ("kitchen", 1));
    let written = fs::metadata(board.place().boot().join("PROVISION-ERROR.txt")).unwrap().modified().unwrap();
    board.start_anew();
    let again = fs::metadata(board.place().boot().join("PROVISION-ERROR.txt")).unwrap().modified().unwrap();
    assert_eq!(written, again, "the same errors are written once");
    board.drop_file("picloud.toml", "[device]\nhostname = \"seven\"\n");
    assert_eq!(board.start_anew().host_name, "seven");
    assert_eq!(board.read("boot/firmware/PROVISION-ERROR.txt"), None);
}

#[test]
fn each_key_says_what_it_takes() {
    let wifi = |rest: &str| format!("[wifi]\ncountry = \"DE\"\n{rest}");
    wrong(&wifi(&format!("ssid = \"{}\"", "x".repeat(33))), "line 3: wifi.ssid must be 1 to 32 bytes");
    wrong(&wifi(&format!("ssid = \"{}\"", "ö".repeat(17))), "line 3: wifi.ssid must be 1 to 32 bytes");
    wrong(&wifi("ssid = \"\""), "wifi.ssid must be 1 to 32 bytes");
    wrong(&wifi("ssid_hex = \"abc\""), "wifi.ssid_hex must be 1 to 32 bytes, two");
    wrong(&wifi("ssid = \"a\"\nssid_hex = \"61\""), "line 4: wifi.ssid_hex and ssid exclude each other");
    wrong(&wifi("password = \"12345678\""), "wifi.ssid is missing");
    wrong(&wifi("ssid = \"a\"\npsk = \"12345678\""), "wifi.psk must be 64 hexadecimal digits");
    wrong(&wifi("ssid = \"a\"\npassword = \"a\\tb45678\""), "wifi.password must be 8 to 63");
    wrong(&wifi("ssid = \"a\"\nwpa3 = true"), "wifi.wpa3 needs the password");
    wrong(&wifi("ssid = \"a\"\nhidden = \"yes\""), "wifi.hidden must be true or false");
    wrong("[wifi]\nssid = \"a\"\ncountry = \"Germany\"", "line 3: wifi.country must be the two letters");
    wrong("[wifi]\nssid = \"a\"\ncountry = \"1X\"", "wifi.country must be the two letters");
    wrong("wifi = \"home\"", "wifi is a table: write it as [wifi]");
    for bad in ["192.168.7.2", "192.168.7.0/24", "192.168.7.255/24", "192.168.7.2/33", "127.0.0.1/8", "x/24"]
    {
        wrong(
            &format!("[ethernet]\naddress = \"{bad}\""),
            "line 2: ethernet.address must be an address of this device",
        );
    }
    let ethernet = |rest: &str| format!("[ethernet]\naddress = \"10.0.0.2/24\"\n{rest}");
    wrong(
        &ethernet("gateway = \"10.0.1.1\""),
        "line 3: ethernet.gateway must be another address in the network 10.0.0.0/24",
    );
    wrong(&ethernet("gateway = \"10.0.0.2\""), "ethernet.gateway must be another address");
    wrong(&ethernet("dns = \"9.9.9.9\""), "ethernet.dns must be a list");
    wrong(&ethernet("dns = [\"a\"]"), "ethernet.dns must be an address");
    wrong(
        &ethernet("dns = [\"1.1.1.1\", \"1.1.1.2\", \"1.1.1.3\", \"1.1.1.4\"]"),
        "ethernet.dns holds at most 3",
    );
    wrong("[ethernet]\ngateway = \"10.0.0.1\"", "ethernet.gateway needs an address of this device");
    wrong("[device]\ntimezone = \"Mars/Olympus\"", "device.timezone must be a time zone");
    wrong("[device]\nhostname = \"pi.local\"", "device.hostname must be a name");
    wrong("[admin]\nsetup_code = \"1234-567\"", "admin.setup_code must be 8 to 64 letters");
    wrong(
        "[admin]\nsetup_code = \"a--------------------bcdefgh\"",
        "admin.setup_code must be 8 to 64 letters",
    );
    wrong("[device]\njournal = \"none\"", "device.journal must be \"persistent\"");
    wrong("[device]\nkeymap = \"../x\"", "device.keymap must be a keyboard layout");
    wrong("[ssh]\nauthorized_keys = [\"my key\"]", "ssh.authorized_keys must be public keys");
    wrong("[ssh]\npassword_hash = \"secret-password\"", "ssh.password_hash must be the hash of a password");
    wrong("[ssh]\npassword_hash = \"$6$a:b$aaaaaaaaaaaaaaaaaaaaaa\"", "ssh.password_hash must be the hash");
    wrong("[admin]\nkey = \"short\"", "admin.key must be 16 to 256");
    wrong("[server]\ndata_dir = \"/x\"", "server.data_dir is given by the image");
    wrong("[apps]\nkv_bytes = 10\nkv_bytes_max = 5", "apps.kv_bytes must be at most apps.kv_bytes_max");
    let preseed = |text: &str, why: &str| check_wrong("rpi-preseed.toml", text, &[why]);
    preseed("config_version = 2", "line 1: config_version must be \"1.0\"");
    preseed("[wlan]\nssid = \"a\"\n", "wlan.country is missing");
    preseed("[user]\npassword = \"clear\"\npassword_encrypted = false", "user.password must be encrypted");
}

#[test]
fn errors_never_tell_secrets() {
    for text in [
        "[wifi]\nssid = \"a\"\ncountry = \"DE\"\npassword = \"hunter2\"\n",
        "[wifi]\nssid = \"a\"\ncountry = \"DE\"\npassword = hunter2\n",
        "[wifi]\npassword = \"hunter2\"\npassword = \"hunter2\"\n",
        "[ssh]\npassword_hash = \"hunter2\"\n",
        "[admin]\nkey = \"hunter2\"\n",
        "[wifi]\npassword = [\"hunter2\"]\nssid = \"a\"\ncountry = \"DE\"",
    ] {
        let board = Board::new();
        board.drop_file("picloud.toml", text);
        let prepared = board.start();
        assert!(!prepared.errors.is_empty(), "{text}");
        for (path, (_, content)) in
            board.files().iter().filter(|(path, _)| !path.ends_with("firmware/picloud.toml"))
        {
            assert!(!content.contains("hunter2"), "{path} tells it: {content}");
        }
        assert!(!format!("{prepared:?}").contains("hunter2"), "{prepared:?}");
    }
}

/// Runs the step of the boot partition only until its write number `cut`.
fn applied_until(board: &Board, cut: usize) -> bool {
    let count = Cell::new(0_usize);
    let place = board.place();
    let outcome = provision::apply(&place, Settings::load(&place).unwrap(), "", true, &|work| {
        count.set(count.get() + 1);
        if count.get() > cut { Err(io::Error::other("the power is gone")) } else { work() }
    });
    outcome.complaints.is_empty()
}

#[test]
fn a_power_cut_between_any_two_steps_is_made_up_for() {
    let reference = Board::new();
    reference.drop_file("picloud.toml", FULL);
    reference.start();
    let wanted = reference.files();
    // Before the boot partition is touched, and states that only a cut leaves.
    let redacted = wanted["boot/firmware/picloud.toml.applied"].1.clone();
    let settings = wanted["data/identity/settings.toml"].1.clone();
    let firmware = |board: &Board, files: &[(&str, &str)]| {
        files.iter().for_each(|(name, text)| board.drop_file(name, text))
    };
    let cuts: [&dyn Fn(&Board); 6] = [
        &|board| {
            assert!({
                firmware(board, &[("picloud.toml", FULL)]);
                !applied_until(board, 0)
            })
        },
        &|board| firmware(board, &[("picloud.toml", FULL), ("picloud.toml.applied.new", "# half of")]),
        &|board| firmware(board, &[("picloud.toml", FULL), ("picloud.toml.applied", &redacted)]),
        &|board| firmware(board, &[("picloud.toml.wiping", FULL), ("picloud.toml.applied", &redacted)]),
        &|board| firmware(board, &[("picloud.toml.wiping", "   "), ("picloud.toml.applied", &redacted)]),
        &|board| {
            firmware(board, &[("picloud.toml", FULL)]);
            board.put("data/identity/settings.toml.new", "[half");
        },
    ];
    for (number, cut) in cuts.iter().enumerate() {
        let board = Board::new();
        // The settings were kept before the file was taken away, but for the last.
        if number < 5 {
            board.put("data/identity/settings.toml", &settings);
            let path = board.place().identity().join("settings.toml");
            fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
        }
        cut(&board);
        let prepared = board.start();
        assert!(prepared.errors.is_empty() && prepared.complaints.is_empty(), "{number}: {prepared:?}");
        let mut files = board.files();
        files.remove("data/identity/hostname");
        assert_eq!(files, wanted, "after cut {number}");
    }
}

#[test]
fn without_a_data_partition_files_hold_and_stay() {
    let board = Board::new();
    board.drop_file("picloud.toml", FULL);
    board.put("run/picloud-device/no-data", "e2fsck: bad superblock \\4\n");
    let prepared = board.start();
    assert_eq!(prepared.host_name, "boat");
    assert_eq!(board.read("boot/firmware/picloud.toml").as_deref(), Some(FULL));
    assert_eq!(board.read("data/identity/settings.toml"), None);
    let banner = board.read("run/issue.d/picloud.issue").unwrap();
    assert!(banner.contains("nothing is kept: e2fsck: bad superblock /4\n"), "{banner}");
}

#[test]
fn a_keyboard_layout_that_the_system_lacks_is_told() {
    for (layout, is_there) in [("de", true), ("qwerty", false)] {
        let board = Board::new();
        board.put("usr/share/keymaps/de.kmap.gz", "");
        board.drop_file("picloud.toml", format!("[device]\nkeymap = \"{layout}\"\nhostname = \"x\"\n"));
        let prepared = board.start();
        let made = board.read("run/picloud-device/vconsole.conf").unwrap_or_default();
        assert_eq!(made.contains("KEYMAP=de\n"), is_there, "{made}");
        let told = prepared.complaints.iter().any(|why| why.contains("no keyboard layout qwerty"));
        assert_eq!(told, !is_there, "{prepared:?}");
        assert_eq!(prepared.host_name, "x", "the rest holds");
    }
}

#[test]
fn what_is_broken_is_told_and_defaults_go_on() {
    let board = Board::new();
    board.put("data/identity/settings.toml", "[admin]\nkey = \"hunter2\n");
    let prepared = board.start();
    assert_eq!(prepared.host_name, "picloud-beef");
    let told = prepared.complaints.join("\n");
    assert!(
        told.contains("settings.toml cannot be read and are not used") && !told.contains("hunter2"),
        "{told}"
    );
    assert!(board.read("run/systemd/network/20-picloud-ethernet.network").is_some());
    // A daemon of another version does not take what this one was given.
    let board = Board::new();
    board.put(
        "data/identity/settings.toml",
        "[daemon.scripts]\nthreds = 4\n[device]\nhostname = \"x\"\nnewer = 1\n",
    );
    let prepared = board.start();
    assert_eq!(prepared.host_name, "x");
    assert!(prepared.complaints.iter().any(|why| why.contains("unknown key scripts.threds")), "{prepared:?}");
    assert_eq!(board.read("run/picloud-device/picloud.toml").as_deref(), Some("[scripts]\nqueue_max = 7\n"));
    // Nothing at all: not even directories can be made.
    let nowhere = Place::below("/proc/nowhere");
    let prepared = prepare(&nowhere, &mut |_| Err(io::Error::other("no randomness")));
    assert_eq!(prepared.host_name, "picloud-0000");
    assert!(prepared.complaints.len() > 5, "{prepared:?}");
}
