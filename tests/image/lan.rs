//! A network of the tests, with a board in it that anybody there can reach: how it is found, and by which protocols.

use std::net::Ipv4Addr;
use std::process::{Child, Command, Stdio};

use crate::Kit;
use crate::card::{Card, run};
use crate::pi::{Pi, SHELL, until};

/// Of this machine there.
const OURS: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
/// Of the board.
const ITS: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 2);
/// The interface by which this machine is in it.
pub(crate) const TAP: &str = "tap0";
/// Asks by multicast DNS (RFC 6762), and prints the first answer in hexadecimal.
const ASK: &str = r#"
import socket, struct, sys
own, name, kind = sys.argv[1], sys.argv[2].encode(), int(sys.argv[3])
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(("", 5353))
group = socket.inet_aton("224.0.0.251")
s.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group + socket.inet_aton(own))
s.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(own))
s.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 255)
s.settimeout(3)
labels = b"".join(bytes([len(label)]) + label for label in name.split(b"."))
s.sendto(struct.pack(">6H", 0, 0, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">2H", kind, 1), ("224.0.0.251", 5353))
while True:
    answer = s.recv(9000)
    if answer[2] & 0x80 and labels in answer:
        print(answer.hex())
        break
"#;

/// The network; it goes when this does.
pub(crate) struct Lan(Child);

impl Lan {
    pub(crate) fn new() -> Lan {
        let holder = Command::new("unshare")
            .args(["--net", "sleep", "infinity"])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let lan = Lan(holder);
        let own = std::fs::read_link("/proc/self/ns/net").unwrap();
        let its = format!("/proc/{}/ns/net", lan.0.id());
        until("the network", || std::fs::read_link(&its).ok().filter(|its| *its != own));
        let address = format!("{OURS}/24");
        for words in [
            &["link", "set", "lo", "up"][..],
            &["tuntap", "add", "dev", TAP, "mode", "tap"],
            &["address", "add", &address, "dev", TAP],
            &["link", "set", TAP, "up"],
        ] {
            assert!(lan.command("ip").args(words).status().unwrap().success(), "ip {words:?}");
        }
        lan
    }

    /// A process that is in it.
    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    /// A program in it.
    pub(crate) fn command(&self, program: &str) -> Command {
        within(self.id(), program)
    }

    /// What somebody in it answers to a question for this name, once it does.
    fn ask(&self, name: &str, kind: u16) -> Vec<u8> {
        let hex = until(name, || {
            let words = ["-c", ASK, &OURS.to_string(), name, &kind.to_string()];
            let output = self.command("python3").args(words).stderr(Stdio::null()).output().unwrap();
            output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
        });
        let digits = hex.trim().as_bytes().chunks(2);
        digits.map(|two| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap()).collect()
    }
}

/// A program in the network of a process.
pub(crate) fn within(id: u32, program: &str) -> Command {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let mut command = Command::new("nsenter");
    command.args(["--net", "--target", &id.to_string(), program]).env("PATH", path);
    command
}

impl Drop for Lan {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A device is found by its name, offers what it serves, and shows who it is by TLS.
pub(crate) fn found(kit: &Kit) {
    const ADDRESS: u16 = 1;
    const POINTER: u16 = 12;
    const CODE: &str = "harbour-1907-boat";
    let lan = Lan::new();
    let card = Card::flash(kit, "found", 2, SHELL);
    // What only we have comes from our file, and the rest from the one that Raspberry Pi Imager writes.
    let key = kit.work.join("found.key");
    let _ = std::fs::remove_file(&key);
    run("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-f", key.to_str().unwrap()]);
    let public = std::fs::read_to_string(key.with_extension("key.pub")).unwrap();
    card.write(
        "picloud.toml",
        &format!(
            "[ethernet]\naddress = \"{ITS}/24\"\ngateway = \"{OURS}\"\n[admin]\nsetup_code = \"{CODE}\"\n"
        ),
    );
    card.write(
        "rpi-preseed.toml",
        &format!(
            "config_version = \"1.0\"\n[system]\nhostname = \"boat\"\n[ssh]\nenabled = true\n\
             password_authentication = false\nauthorized_keys = [\"{}\"]\n[locale]\nkeymap = \"gb\"\n",
            public.trim()
        ),
    );
    let mut pi = Pi::boot_in(kit, &card, &lan, ITS);
    pi.until_answers("/hello/you");
    let has = |answer: &[u8], bytes: &[u8]| answer.windows(bytes.len()).any(|part| part == bytes);
    assert!(has(&lan.ask("boat.local", ADDRESS), &ITS.octets()), "its address");
    for service in ["_http._tcp.local", "_https._tcp.local"] {
        let answer = lan.ask(service, POINTER);
        assert!(has(&answer, b"\x04boat"), "{service}: {answer:x?}");
    }
    // The authority of the device, as the trust page gives it, vouches for its name.
    let authority = kit.work.join("found.pem");
    std::fs::write(&authority, pi.get("/api/v1/ca.pem").unwrap()).unwrap();
    let words =
        ["-sSf", "--resolve", &format!("boat.local:443:{ITS}"), "--cacert", authority.to_str().unwrap()];
    let answer = lan.command("curl").args(words).arg("https://boat.local/hello/you").output().unwrap();
    assert!(answer.status.success(), "{}", String::from_utf8_lossy(&answer.stderr));
    println!("    https://boat.local says {}", String::from_utf8_lossy(&answer.stdout).trim());
    // Who brought a key is let in, and may do what is to be done. The code that was chosen is told to nobody else.
    let known = kit.work.join("found.known");
    let _ = std::fs::remove_file(&known);
    let (known, login) = (format!("UserKnownHostsFile={}", known.display()), format!("admin@{ITS}"));
    let ssh = |options: &[&str], line: &str| {
        let common = ["-o", &known, "-o", "StrictHostKeyChecking=accept-new", "-o", "BatchMode=yes"];
        let output = lan.command("ssh").args(common).args(options).args([&login, line]).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let with_key = ["-i", key.to_str().unwrap()];
    let (is_in, code) = ssh(&with_key, "sudo cat /run/picloud-device/setup-code");
    assert!(is_in && code == CODE, "{code}");
    let (is_in, applied) = ssh(&with_key, "sudo cat /boot/firmware/picloud.toml.applied");
    assert!(is_in && applied.contains("setup_code") && !applied.contains(CODE), "{applied}");
    assert!(pi.set_up("1907-harbour-boat").is_err(), "another code");
    let brought = pi.set_up(CODE).unwrap_or_else(|answer| panic!("no key in {answer}"));
    pi.manage(&brought, &["app", "ls"]);
    assert!(ssh(&with_key, "systemctl is-active picloud").0);
    let (is_in, _) = ssh(&["-o", "IdentityFile=none", "-o", "IdentitiesOnly=yes"], "true");
    assert!(!is_in, "without the key nobody is let in");
    // Nothing else answers.
    for port in ["111", "5355", "8080"] {
        let closed =
            lan.command("curl").args(["-s", "-m", "5", &format!("http://{ITS}:{port}/")]).output().unwrap();
        assert_eq!(closed.status.code(), Some(7), "port {port} takes connections");
    }
}
