#!/usr/bin/env python3
"""Puts the card together, without loop devices and without mounting anything.

card.py script TEXT FILE                  a U-Boot script (image format of 2005: include/image.h of U-Boot)
card.py environment FILE SIZE K=V ..      a U-Boot environment: CRC32, then K=V, each ended by a zero
card.py sums FILE KERNEL INITRD           what the boot script compares: the CRC32 of each, lowest byte first
card.py assemble CARD BOOT SLOT DATA      the whole card; slot B stays blank
card.py layout                            what is where, in MiB, for shells
"""

import os
import struct
import sys
import zlib

MIB = 1 << 20
# Each at a multiple of 8 MiB: a torn block of the card's own must not reach a neighbour.
STATES = (1, 5)
BOOT, SLOT_A, SLOT_B, DATA, END = 8, 128, 640, 1152, 1216
STATE_BYTES = 0x4000
# "PiCl": how the initrd knows the card.
SIGNATURE = b"PiCl"


def environment(variables, size):
    body = b"".join(word.encode() + b"\0" for word in variables) + b"\0"
    if len(body) > size - 4:
        sys.exit("card.py: the variables do not fit")
    body = body.ljust(size - 4, b"\0")
    return struct.pack("<I", zlib.crc32(body)) + body


def script(text):
    body = struct.pack(">II", len(text), 0) + text

    def header(checksum):
        # Magic, checksum, time, size, address, entry, checksum of the body; Linux, arm64, script, not packed; a name.
        return struct.pack(">7I4B32s", 0x27051956, checksum, 0, len(body), 0, 0, zlib.crc32(body), 5, 22, 6, 0, b"PiCloud")

    return header(zlib.crc32(header(0))) + body


def table():
    sector = bytearray(512)
    sector[440:444] = SIGNATURE
    parts = [(0x80, 0x0C, BOOT, SLOT_A), (0, 0x83, SLOT_A, SLOT_B), (0, 0x83, SLOT_B, DATA), (0, 0x83, DATA, END)]
    for number, (active, kind, start, end) in enumerate(parts):
        entry = struct.pack("<B3sB3sII", active, b"\xfe\xff\xff", kind, b"\xfe\xff\xff", start * 2048, (end - start) * 2048)
        sector[446 + 16 * number:462 + 16 * number] = entry
    sector[510:] = b"\x55\xaa"
    return bytes(sector)


def copy(source, target, at):
    with open(source, "rb") as file:
        target.seek(at * MIB)
        while block := file.read(MIB):
            if block.count(0) == len(block):
                target.seek(len(block), os.SEEK_CUR)
            else:
                target.write(block)


def assemble(card, boot, slot, data):
    with open(card, "wb") as file:
        file.truncate(END * MIB)
        file.write(table())
        for at in STATES:
            file.seek(at * MIB)
            file.write(environment(["pending=", "slot=A", "tries=0"], STATE_BYTES))
        for source, at, end in ((boot, BOOT, SLOT_A), (slot, SLOT_A, SLOT_B), (data, DATA, END)):
            if os.path.getsize(source) > (end - at) * MIB:
                sys.exit(f"card.py: {source} is larger than its partition")
            copy(source, file, at)


def main():
    verb, *words = sys.argv[1:]
    if verb == "script":
        with open(words[0], "rb") as text, open(words[1], "wb") as file:
            file.write(script(text.read()))
    elif verb == "environment":
        with open(words[0], "wb") as file:
            file.write(environment(words[2:], int(words[1], 0)))
    elif verb == "sums":
        with open(words[0], "wb") as file:
            for path in words[1:]:
                with open(path, "rb") as part:
                    file.write(struct.pack("<I", zlib.crc32(part.read())))
    elif verb == "assemble":
        assemble(*words)
    elif verb == "layout":
        print(f"BOOT_MIB={SLOT_A - BOOT} SLOT_MIB={SLOT_B - SLOT_A} DATA_MIB={END - DATA} BOOT_AT={BOOT} SLOT_A_AT={SLOT_A} SLOT_B_AT={SLOT_B} DATA_AT={DATA}")
    else:
        sys.exit(__doc__)


main()
