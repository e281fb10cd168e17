//! A stick in the USB port.

use std::fs;

use crate::Kit;
use crate::card::{Card, run};
use crate::pi::{Pi, SHELL, until};

pub(crate) fn backups(kit: &Kit) {
    let stick = kit.work.join("usb-stick.img");
    for kind in ["vfat", "ext4"] {
        let file = fs::File::create(&stick).unwrap();
        file.set_len(64 << 20).unwrap();
        match kind {
            "vfat" => {
                run("mformat", &["-i", stick.to_str().unwrap(), "-T", "131072", "-h", "64", "-s", "32", "::"])
            }
            _ => run("mkfs.ext4", &["-q", stick.to_str().unwrap()]),
        };
        let card = Card::flash(kit, "stick", 2, SHELL);
        card.write("picloud.toml", "[backups]\ncopy_to = \"/media/stick/picloud/boat\"\n");
        let mut pi = Pi::boot_with_stick(kit, &card, &stick);
        pi.until_answers("/hello/you");
        let mount = until("the stick", || {
            let (mount, code) = pi.ask("grep ' /media/stick ' /proc/self/mounts");
            (code == 0).then_some(mount)
        });
        assert!(mount.contains(kind), "{mount}");
        for option in ["nosuid", "nodev", "noexec", "nosymfollow"] {
            assert!(mount.contains(option), "{mount}");
        }
        let key = pi.key();
        pi.manage(&key, &["backup"]);
        assert!(pi.sh("(cd /media/stick/picloud/boat && sha256sum -c *.sha256)").ends_with(": OK"));
        let listed = pi.manage(&key, &["backup", "ls", "--json"]);
        assert!(listed.contains("\"ok\": true") || listed.contains("\"ok\":true"), "{listed}");
        // Who pulls it is told at the next backup, and nothing fails.
        pi.sh("echo 1 >/sys/block/sda/device/delete");
        until("the stick to be let go", || (pi.ask("mountpoint -q /media/stick").1 != 0).then_some(()));
        pi.manage(&key, &["backup"]);
        let listed = pi.manage(&key, &["backup", "ls", "--json"]);
        assert!(listed.contains("is mounted at /media/stick/picloud/boat"), "{listed}");
        assert_eq!(pi.sh("systemctl --failed --no-legend --plain"), "");
        pi.pull();
    }
}
