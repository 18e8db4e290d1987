#!/usr/bin/python3
"""Writes the seeds of the protocol's fuzz targets below the directory given (tests/fuzz/corpus)."""

import pathlib
import struct
import sys

IHAVEOPT = 0x49484156454F5054
REQUEST_MAGIC = 0x25609513
ALLOCATION = b"base:allocation"


def counted(text):
    return struct.pack(">I", len(text)) + text


def option(number, payload=b"", magic=IHAVEOPT):
    return struct.pack(">QII", magic, number, len(payload)) + payload


def info(name, types=()):
    return counted(name) + struct.pack(f">H{len(types)}H", len(types), *types)


def meta(name, queries=()):
    return counted(name) + struct.pack(">I", len(queries)) + b"".join(map(counted, queries))


def request(command, offset=0, length=0, flags=0, cookie=1, magic=REQUEST_MAGIC):
    return struct.pack(">IHHQQI", magic, flags, command, cookie, offset, length) + b"\x05"


def request_seeds():
    size = 1 << 30
    for bits in range(8):
        facts = struct.pack(">QIB", size, 32 << 20, bits)
        yield f"plain-{bits}", facts + b"".join(request(c, 0, 0 if c in (2, 3) else 4096) for c in range(9))
        yield f"flags-{bits}", facts + b"".join(request(c, 512, 512, 1 << (c % 6)) for c in range(9))
        yield f"edges-{bits}", facts + b"".join(request(c, size - 512, 1024) + request(c, (1 << 64) - 1, 0xFFFFFFFF) for c in range(9))
    yield "large", struct.pack(">QIB", (1 << 63) - 512, 32 << 20, 6) + request(4, 1, 0xFFFFFFFF) + request(1, 0, (64 << 20) + 1)
    yield "magic", struct.pack(">QIB", size, 4096, 0) + request(0, magic=0x12560953)
    yield "empty-export", struct.pack(">QIB", 0, 0, 7) + request(0) + request(0, 0, 1) + request(3)


def option_seeds():
    for number in range(12):
        yield f"header-{number}", b"\0" + option(number)
    for at, name in enumerate((b"disk", b"", b"x" * 300, "snöman ☃ 💾".encode(), b"\xc3\x28", b"nul\0", b"\xed\xa0\x80")):
        yield f"name-{at}", b"\1" + name
        yield f"info-{at}", b"\2" + info(name, range(at))
        yield f"meta-{at}", b"\3" + meta(name, [ALLOCATION, b"base:", b"x:" + name][:at])
        yield f"text-{at}", b"\4" + bytes([at * 4]) + name
    yield "info-overclaims", b"\2" + counted(b"disk") + b"\xff\xff\0\3"
    yield "info-huge-name", b"\2\xff\xff\xff\xffdisk\0\0"
    yield "meta-overclaims", b"\3" + counted(b"disk") + b"\xff\xff\xff\xff" + counted(ALLOCATION)
    yield "meta-many", b"\3" + meta(b"d", [b"x:y"] * 65)
    yield "text-control", b"\4\x20\x1b[2J\n\\\x7f\xc2\x9b\xff"


def handshakes():
    yield "go", [option(7, info(b"disk", [0, 1, 2, 3]))]
    yield "export-name", [option(1, b"disk")]
    yield "export-name-unknown", [option(1, b"nope")]
    yield "list", [option(3), option(3, b"x"), option(2)]
    yield "info-go", [option(6, info(b"disk", [3])), option(7, info(b"disk", [3]))]
    yield "structured", [option(8), option(10, meta(b"disk", [ALLOCATION])), option(7, info(b"disk"))]
    yield "meta-other", [option(8), option(10, meta(b"other", [ALLOCATION])), option(7, info(b"disk"))]
    yield "meta-fails", [option(8), option(10, meta(b"disk", [ALLOCATION])), option(10, b"x"), option(1, b"disk")]
    yield "meta-list", [option(9, meta(b"disk")), option(9, meta(b"disk", [b"base:"])), option(9, meta(b"nope"))]
    yield "unknown", [option(77, b"abcd"), option(4), option(11), option(0xFFFFFFFF, b"z"), option(7, info(b"disk"))]
    yield "starttls", [option(8), option(5), option(8), option(5), option(7, info(b"disk"))]
    yield "starttls-data", [option(5, b"x"), option(2, b"bye")]
    yield "malformed", [option(7, b"\xff\xff\xff\xffdisk\0\0"), option(6, b""), option(7, info(b"disk") + b"x")]
    yield "names", [option(7, info(n)) for n in (b"held", b"late", b"", b"nul\0", b"\xc3\x28", b"a\x1b[2J")]
    yield "magic", [option(3), option(3, magic=IHAVEOPT ^ 1)]
    yield "huge", [struct.pack(">QII", IHAVEOPT, 7, 0xFFFFFFFF)]
    yield "long", [struct.pack(">QII", IHAVEOPT, 3, 1 << 20) + b"x" * 100]
    yield "http", [b"GET / HTTP/1.1\r\n\r\n"]


def negotiator_seeds():
    for at, (name, options) in enumerate(handshakes()):
        for settings in (0, 1, 2, 4 + 8 * (at % 2) + 16 * (at % 3 == 0)):
            yield f"{name}-{settings}", bytes([settings, at]) + struct.pack(">I", 3 if at % 4 else at // 4 % 4) + b"".join(options)
    yield "flags", bytes([0, 1]) + struct.pack(">I", 0x80000003) + option(3)
    for settings in (0x80, 0x81, 0x82, 0x84, 0x94):
        yield f"script-go-{settings}", bytes([settings, 9, 3, 3, 0, 8, 0, 10, 2, 7, 1])
        yield f"script-all-{settings}", bytes([settings, 7, 3]) + b"".join(bytes([n, n % 3 | 4]) for n in (3, 6, 9, 10, 11, 5, 8, 10, 6, 7))
        yield f"script-raw-{settings}", bytes([settings, 5, 1, 7, 3, 10]) + info(b"disk") + bytes([1, 3, 4]) + b"disk"


def transmission_seeds():
    def record(command, offset=3, fine=0, length=3, length_fine=0, flags=0, value=1):
        return bytes([command, offset, fine, length, length_fine, flags, value])

    for settings in range(0, 128, 5):
        every = b"".join(record(c, 11, c, 19, 0, f, c + 1) for f in (0, 1, 4) for c in (1, 0, 3, 4, 5, 6, 7))
        yield f"every-{settings}", bytes([settings, settings]) + every
        edges = b"".join(record(c, o, 1, n, 2) for c in (0, 1, 4, 6, 7) for o in (0, 1, 2) for n in (0, 1, 3))
        yield f"edges-{settings}", bytes([settings, settings + 1]) + edges
        yield f"large-{settings}", bytes([settings, 3]) + record(1, 3, 0, 251) + record(0, 3, 0, 251) * 6 + record(2)
        yield f"huge-{settings}", bytes([settings, 4]) + record(1) + record(1, 3, 0, 2) + record(1) * 8
        yield f"garbage-{settings}", bytes([settings, 5]) + record(1) * 3 + record(255, 30, 0x25) + record(1, 5)


def main():
    if len(sys.argv) != 2:
        sys.exit(f"usage: {sys.argv[0]} DIRECTORY")
    for target, seeds in {
        "request_fuzz": request_seeds(),
        "option_fuzz": option_seeds(),
        "negotiator_fuzz": negotiator_seeds(),
        "transmission_fuzz": transmission_seeds(),
    }.items():
        directory = pathlib.Path(sys.argv[1]) / target
        directory.mkdir(parents=True, exist_ok=True)
        for name, data in seeds:
            (directory / name).write_bytes(data)


if __name__ == "__main__":
    main()
