#!/usr/bin/env python3
"""The packages of the card image: resolves which there are, and fetches exactly those that the lock names.

lock.py refresh LOCK CACHE           asks the archive, writes the lock
lock.py fetch LOCK CACHE             gets what is missing in CACHE/debs; each file's hash is the lock's

The archives are those of this machine's own apt, by the same mirrors; its configuration is read and not touched.
"""

import hashlib
import os
import pathlib
import re
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
SUITE = "trixie"
COMPONENTS = "main non-free-firmware"
HEADER = """\
# What the card image is made of: group, package, version, sha256, size, archive and path in it. Made by
# `scripts/build-image --refresh`; what is in `root` is installed, what is in `parts` is taken apart.
"""


def fail(message):
    sys.exit(f"build-image: {message}")


def mirrors():
    """The archives' addresses as this machine's apt has them: of the distribution, and of its security updates."""
    targets = ["apt-get", "indextargets", "--format", "$(REPO_URI) $(CODENAME) $(LABEL)", "Created-By: Packages"]
    found = {}
    for line in subprocess.run(targets, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines():
        address, _, label = line.split(" ", 2)
        found.setdefault({"Debian": "debian", "Debian-Security": "security"}.get(label, ""), address.rstrip("/"))
    if "debian" not in found or "security" not in found:
        fail("this machine's apt knows no archive of Debian and of its security updates; run apt-get update on a Debian")
    return found


class Apt:
    """An apt of our own: another architecture, another suite, nothing installed."""

    def __init__(self, cache):
        self.root = cache / "apt"
        for directory in ("etc/apt/preferences.d", "state/lists/partial", "cache/archives/partial"):
            (self.root / directory).mkdir(parents=True, exist_ok=True)
        at = mirrors()
        lines = [f"deb [signed-by={KEYRING}] {at['debian']} {suite} {COMPONENTS}" for suite in (SUITE, f"{SUITE}-updates", f"{SUITE}-backports")]
        lines.append(f"deb [signed-by={KEYRING}] {at['security']} {SUITE}-security {COMPONENTS}")
        (self.root / "etc/apt/sources.list").write_text("\n".join(lines) + "\n")
        # Of the backports only what the list asks for by name.
        (self.root / "etc/apt/preferences.d/backports").write_text(f"Package: *\nPin: release n={SUITE}-backports\nPin-Priority: 100\n")
        (self.root / "status").write_text("")
        self.options = [
            f"-oDir::Etc={self.root}/etc/apt", f"-oDir::State={self.root}/state", f"-oDir::Cache={self.root}/cache",
            f"-oDir::State::status={self.root}/status", "-oAPT::Architecture=arm64", "-oAPT::Architectures=arm64",
            "-oAPT::Install-Recommends=false", "-oAcquire::Languages=none", "-oAPT::Sandbox::User=root", "-qq",
        ]

    def run(self, *words):
        done = subprocess.run(["apt-get", *self.options, *words], stdout=subprocess.PIPE, text=True)
        if done.returncode != 0:
            fail(f"apt-get {' '.join(words[:3])} .. failed; see above")
        return done.stdout


LINE = re.compile(r"^'([^']+)' (\S+)_(\S+)_(?:arm64|all)\.deb (\d+) (?:SHA256:)?(\S*)")


def resolved(apt, group, words):
    """Lines of the lock for what apt would get."""
    lines = []
    for line in apt.run(*words).splitlines():
        match = LINE.match(line)
        if not match:
            continue
        address, name, version, size, _ = match.groups()
        archive = "security" if "-security/" in address else "debian"
        path = address[address.index("/pool/") + 1:]
        lines.append([group, name, version.replace("%3a", ":"), size, archive, path])
    return lines


def hashes(apt, names):
    """The sha256 of each package's file, from the signed indexes."""
    found = {}
    for record in apt_cache(apt, names).split("\n\n"):
        fields = dict(line.split(": ", 1) for line in record.splitlines() if ": " in line and not line.startswith(" "))
        if "Package" in fields:
            found[(fields["Package"], fields["Version"])] = fields["SHA256"]
    return found


def apt_cache(apt, names):
    """What the indexes say of packages, in all versions."""
    return subprocess.run(["apt-cache", *apt.options, "show", *names], check=True, stdout=subprocess.PIPE, text=True).stdout


def wanted(group):
    lines = (HERE / f"packages.{group}").read_text().splitlines()
    return [word for line in lines for word in line.split("#")[0].split()]


def refresh(lock, cache):
    apt = Apt(cache)
    apt.run("update")
    lines = resolved(apt, "root", ["install", "--print-uris", "-y", "?essential", *wanted("root")])
    # The kernel by its own version, the newest one: `linux-image-arm64` only names it.
    kernels = re.findall(r"\blinux-image-([0-9][^ ,]*)", apt_cache(apt, ["linux-image-arm64"]))
    newest = max(kernels, key=lambda text: [int(part) for part in re.findall(r"\d+", text)])
    parts = [name.replace("{kernel}", newest) for name in wanted("parts")]
    lines += resolved(apt, "parts", ["download", "--print-uris", *parts])
    known = hashes(apt, sorted({line[1] for line in lines}))
    with open(lock, "w", encoding="utf-8") as file:
        file.write(HEADER)
        for group, name, version, size, archive, path in sorted(lines):
            file.write(" ".join([group, name, version, known[(name, version)], size, archive, path]) + "\n")


def entries(lock):
    lines = pathlib.Path(lock).read_text(encoding="utf-8").splitlines()
    return [line.split() for line in lines if line and not line.startswith("#")]


def fetch(lock, cache):
    debs = cache / "debs"
    debs.mkdir(parents=True, exist_ok=True)
    at = None
    for _, name, version, sha256, _, archive, path in entries(lock):
        file = debs / path.rsplit("/", 1)[1]
        if file.exists() and hashlib.sha256(file.read_bytes()).hexdigest() == sha256:
            continue
        at = at or mirrors()
        got = subprocess.run(["/usr/lib/apt/apt-helper", "-oAPT::Sandbox::User=root", "download-file", f"{at[archive]}/{path}", str(file), f"SHA256:{sha256}"], stdout=subprocess.DEVNULL)
        if got.returncode != 0:
            fail(f"the archive no longer has {name} {version} as the lock names it; scripts/build-image --refresh takes what there is now")


def main():
    verb, lock, cache = sys.argv[1:4]
    os.environ["LC_ALL"] = "C"
    {"refresh": refresh, "fetch": fetch}[verb](lock, pathlib.Path(cache).resolve())


main()
