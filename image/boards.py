#!/usr/bin/env python3
"""Whether the initrd has what the boards need to find their card: every driver on the way to it, by the device trees.

boards.py KERNEL_MODULES INITRD_MODULES DTB ..   fails, and names what is missing
"""

import os
import re
import struct
import sys

# Properties that refer to other nodes: by which count of further cells, if any.
CELLS = {
    "clocks": "#clock-cells", "resets": "#reset-cells", "dmas": "#dma-cells", "power-domains": "#power-domain-cells",
    "interrupts-extended": "#interrupt-cells", "mboxes": "#mbox-cells", "phys": "#phy-cells", "iommus": "#iommu-cells",
}
PLAIN = re.compile(r"(-supply|^pinctrl-\d+|^interrupt-parent|^mmc-pwrseq|^msi-parent)$")
GPIOS = re.compile(r"(^|-)gpios?$")


def tree(blob):
    """Path of each node to its properties (Devicetree specification 0.4, section 5)."""
    at, strings = struct.unpack(">II", blob[8:16])
    nodes, path = {}, []
    while True:
        token = struct.unpack(">I", blob[at:at + 4])[0]
        at += 4
        if token == 1:
            end = blob.index(b"\0", at)
            path.append(blob[at:end].decode())
            nodes["/".join(path)] = {}
            at = (end + 4) & ~3
        elif token == 2:
            path.pop()
        elif token == 3:
            size, name = struct.unpack(">II", blob[at:at + 8])
            end = blob.index(b"\0", strings + name)
            nodes["/".join(path)][blob[strings + name:end].decode()] = blob[at + 8:at + 8 + size]
            at = (at + 8 + size + 3) & ~3
        elif token == 9:
            return nodes


def texts(value):
    return [text.decode() for text in value.split(b"\0") if text]


def words(value):
    return struct.unpack(f">{len(value) // 4}I", value)


def ancestors(path):
    while path:
        yield path
        path = path.rpartition("/")[0]


def needs(nodes, start):
    """The nodes without which one does not work, itself included."""
    handles = {words(node["phandle"])[0]: path for path, node in nodes.items() if "phandle" in node}
    found, waiting = set(), [start]
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found.add(path)
        waiting += list(ancestors(path))[1:]
        for name, value in nodes[path].items():
            cells = CELLS.get(name) or ("#gpio-cells" if GPIOS.search(name) else None)
            if PLAIN.search(name):
                waiting += [handles[word] for word in words(value) if word in handles]
            elif cells:
                rest = list(words(value))
                while rest:
                    target = handles.get(rest.pop(0))
                    if target is None:
                        continue
                    waiting.append(target)
                    del rest[:words(nodes[target].get(cells, b"\0\0\0\0"))[0]]
    return found


def drivers(directory):
    """What a compatible device is driven by: sets of modules, and what the kernel has built in."""
    modules, built_in = {}, set()
    with open(os.path.join(directory, "modules.alias"), encoding="utf-8") as file:
        for line in file:
            if match := re.match(r"alias of:N\*T\*C(\S+?)(C\*)? (\S+)$", line):
                modules.setdefault(match[1], set()).add(match[3])
    with open(os.path.join(directory, "modules.builtin.modinfo"), "rb") as file:
        for record in texts(file.read()):
            if match := re.match(r"[^.]+\.alias=of:N\*T\*C(\S+?)(C\*)?$", record):
                built_in.add(match[1])
    return modules, built_in


def main():
    kernel, initrd, *boards = sys.argv[1:]
    there = {re.sub(r"^\d+-|\.ko$", "", name).replace("-", "_") for name in os.listdir(initrd)}
    modules, built_in = drivers(kernel)
    missing = {}
    for board in boards:
        with open(board, "rb") as file:
            nodes = tree(file.read())

        def is_on(path):
            return all(texts(nodes[one].get("status", b"okay")) in (["okay"], ["ok"]) for one in ancestors(path))

        cards = [path for path in nodes if path.rpartition("/")[2].startswith("mmc@") and is_on(path)]
        if not cards:
            sys.exit(f"boards.py: {board} has no card")
        for path in {need for card in cards for need in needs(nodes, card)}:
            known = texts(nodes[path].get("compatible", b""))
            wanted = set().union(*(modules.get(one, set()) for one in known))
            if wanted and not wanted & there and not built_in & set(known):
                missing.setdefault(" or ".join(sorted(wanted)), set()).add(f"{os.path.basename(board)} {path}")
    for module, places in sorted(missing.items()):
        print(f"boards.py: the initrd lacks {module}, needed by {', '.join(sorted(places)[:3])}", file=sys.stderr)
    sys.exit(1 if missing else 0)


main()
