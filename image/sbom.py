#!/usr/bin/env python3
"""What the image holds, as SPDX 2.3 in JSON: packages of the distribution, crates of the program.

sbom.py VERSION EPOCH LOCK INDEX PRUNE > file; INDEX is what dpkg-scanpackages said of the packages' files, PRUNE names those of
which nothing is left
"""

import datetime
import json
import re
import subprocess
import sys


# Its one program is taken out of the root and put into the initrd.
ELSEWHERE = {"busybox-static"}


def debian(lock, index, prune):
    fields = {}
    with open(prune, encoding="utf-8") as file:
        gone = {name for line in file if line.startswith("package ") for name in line.split()[1:]} - ELSEWHERE
    with open(index, encoding="utf-8") as file:
        for record in file.read().split("\n\n"):
            one = dict(line.split(": ", 1) for line in record.splitlines() if re.match(r"^[A-Z][A-Za-z-]*: ", line))
            if one:
                fields[one["Package"]] = one
    with open(lock, encoding="utf-8") as file:
        lines = [line.split() for line in file if not line.startswith("#")]
    for group, name, version, sha256, _, _, path in lines:
        if group == "root" and name in gone:
            continue
        known = fields.get(name, {})
        architecture = known.get("Architecture", "arm64")
        yield {
            "name": name, "versionInfo": version, "supplier": f"Person: {known.get('Maintainer', 'Debian')}",
            "downloadLocation": "NOASSERTION", "packageFileName": path.rsplit("/", 1)[1],
            "checksums": [{"algorithm": "SHA256", "checksumValue": sha256}], "licenseConcluded": "NOASSERTION",
            "externalRefs": [{"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl",
                              "referenceLocator": f"pkg:deb/debian/{name}@{version}?arch={architecture}"}],
        }


def crates():
    command = ["cargo", "metadata", "--locked", "--format-version", "1", "--filter-platform", "aarch64-unknown-linux-musl"]
    metadata = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    waiting, linked = [metadata["resolve"]["root"]], set()
    while waiting:
        package = waiting.pop()
        if package not in linked:
            linked.add(package)
            waiting += [d["pkg"] for d in nodes[package]["deps"] if any(kind["kind"] is None for kind in d["dep_kinds"])]
    for package in sorted(metadata["packages"], key=lambda one: (one["name"], one["version"])):
        if package["id"] in linked:
            yield {
                "name": package["name"], "versionInfo": package["version"], "supplier": "NOASSERTION",
                "downloadLocation": "NOASSERTION", "licenseConcluded": package["license"] or "NOASSERTION",
                "externalRefs": [{"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl",
                                  "referenceLocator": f"pkg:cargo/{package['name']}@{package['version']}"}],
            }


def main():
    version, epoch, lock, index, prune = sys.argv[1:6]
    packages = [*debian(lock, index, prune), *crates()]
    for number, package in enumerate(packages):
        package["SPDXID"] = f"SPDXRef-Package-{number}"
    created = datetime.datetime.fromtimestamp(int(epoch), datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    document = {
        "spdxVersion": "SPDX-2.3", "dataLicense": "CC0-1.0", "SPDXID": "SPDXRef-DOCUMENT", "name": f"picloud-{version}-arm64",
        "documentNamespace": f"urn:picloud:image:{version}:{epoch}", "creationInfo": {"created": created, "creators": ["Tool: picloud-build-image"]},
        "packages": packages,
        "relationships": [{"spdxElementId": "SPDXRef-DOCUMENT", "relationshipType": "DESCRIBES", "relatedSpdxElement": p["SPDXID"]} for p in packages],
    }
    json.dump(document, sys.stdout, indent=1, sort_keys=True)
    print()


main()
