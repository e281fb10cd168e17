//! A machine with a Debian of its own, in qemu: booted with the distribution's kernel, asked over ssh.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Nothing that is waited for takes longer, on an emulated processor.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);

/// Asks `look` until it finds something; fails with `what` if that takes too long.
#[track_caller]
pub(crate) fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(200));
    }
}

/// What `scripts/test-systemd` made: a root file system with its kernel, and the key to get in.
pub(crate) struct Image {
    pub(crate) directory: PathBuf,
}

/// A booted machine; it goes when this does.
pub(crate) struct Machine {
    qemu: Child,
    directory: PathBuf,
    control: PathBuf,
    ssh_port: u16,
    http_port: u16,
}

/// What a command on the machine did.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Machine {
    /// Boots a fresh copy of the image: nothing is written to it.
    pub(crate) fn boot(image: &Image) -> Machine {
        let directory = image.directory.clone();
        let (ssh_port, http_port) = (free_port(), free_port());
        let network = format!(
            "user,id=n,restrict=on,hostfwd=tcp:127.0.0.1:{ssh_port}-:22,hostfwd=tcp:127.0.0.1:{http_port}-:80"
        );
        let console = fs::File::create(directory.join("console.log")).unwrap();
        let path = |name: &str| directory.join(name).to_str().unwrap().to_owned();
        let drive = format!("file={},if=virtio,format=raw,snapshot=on", path("root.ext4"));
        let qemu = Command::new("qemu-system-x86_64")
            .args([
                "-accel",
                &std::env::var("PICLOUD_QEMU_ACCEL").unwrap_or_else(|_| "tcg,thread=multi".into()),
            ])
            .args(["-cpu", "max", "-smp", "2", "-m", "512", "-nographic", "-no-reboot"])
            .args(["-kernel", &path("vmlinuz"), "-initrd", &path("initrd.img")])
            .args(["-append", "root=/dev/vda rw console=ttyS0 panic=-1 quiet"])
            .args(["-drive", &drive, "-netdev", &network, "-device", "virtio-net-pci,netdev=n"])
            .stdin(Stdio::null())
            .stdout(console.try_clone().unwrap())
            .stderr(console)
            .spawn()
            .unwrap();
        // A socket's path is short.
        let control = std::env::temp_dir().join(format!("picloud-vm-{}-{ssh_port}", std::process::id()));
        let mut machine = Machine { qemu, directory, control, ssh_port, http_port };
        until("the machine to boot", || {
            let ended = machine.qemu.try_wait().unwrap();
            assert!(ended.is_none(), "qemu ended: {ended:?}; see console.log");
            (machine.run("true").code == 0).then_some(())
        });
        let state = machine.run("systemctl is-system-running --wait").out;
        assert!(matches!(state.trim(), "running" | "degraded"), "{state}");
        machine
    }

    /// Where its port 80 is reached from here.
    pub(crate) fn http(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.http_port).into()
    }

    fn ssh(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let port = if program == "scp" { "-P" } else { "-p" };
        command
            .args(["-i", self.directory.join("key").to_str().unwrap(), port, &self.ssh_port.to_string()])
            .args([
                "-o",
                "StrictHostKeyChecking=no",
                "-o",
                "UserKnownHostsFile=/dev/null",
                "-o",
                "LogLevel=ERROR",
            ])
            .args(["-o", "ConnectTimeout=10", "-o", "ControlMaster=auto", "-o", "ControlPersist=600"])
            .args(["-o", &format!("ControlPath={}", self.control.display())]);
        command
    }

    /// Runs a command of a shell on it, as root; both outputs are one.
    pub(crate) fn run(&self, command: &str) -> Ran {
        let mut ssh = self.ssh("ssh");
        let output =
            ssh.args(["root@127.0.0.1", &format!("{{ {command}\n}} 2>&1")]).stdin(Stdio::null()).output();
        Ran::of(&output.unwrap())
    }

    /// Runs what must succeed; gives what it said.
    #[track_caller]
    pub(crate) fn sh(&self, command: &str) -> String {
        let ran = self.run(command);
        assert!(ran.code == 0, "{command}: exit code {}\n{}", ran.code, ran.out);
        ran.out
    }

    /// Runs it until it succeeds and says this.
    #[track_caller]
    pub(crate) fn until_says(&self, command: &str, wanted: &str) -> String {
        let mut last = String::new();
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            last = self.run(command).out;
            if last.contains(wanted) {
                return last;
            }
            thread::sleep(Duration::from_millis(300));
        }
        panic!("{command} never said {wanted:?}, but:\n{last}");
    }

    /// Puts a file of this machine onto it.
    #[track_caller]
    pub(crate) fn put(&self, file: &Path, to: &str) {
        let output =
            self.ssh("scp").args([file.to_str().unwrap(), &format!("root@127.0.0.1:{to}")]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Writes a text into a file on it.
    #[track_caller]
    pub(crate) fn write(&self, path: &str, text: &str) {
        self.sh(&format!("mkdir -p $(dirname {path}) && cat > {path} <<'END'\n{text}\nEND"));
    }

    /// A property of a unit.
    #[track_caller]
    pub(crate) fn property(&self, unit: &str, name: &str) -> String {
        self.sh(&format!("systemctl show -P {name} {unit}")).trim().to_owned()
    }
}

impl Ran {
    fn of(output: &Output) -> Ran {
        Ran {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.ssh("ssh").args(["-O", "exit", "root@127.0.0.1"]).output();
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}
