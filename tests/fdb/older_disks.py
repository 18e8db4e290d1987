#!/usr/bin/python3
"""Disks in the layouts of older servers, written by models of those servers that share no code with the reader.

usage: older_disks.py > tests/golden/older_disks_v1.txt
Lines: `row KEY VALUE` in hexadecimal; `disk LAYOUT SIZE NAME`, then for each stretch of it that is not all zero
`extent OFFSET LENGTH CRC32`. LAYOUT is py or array, NAME is hexadecimal.
"""
import random
import zlib

MiB = 1 << 20
GiB = 1 << 30
NOW_MS = 1_700_000_000_000   # when the last write happened


def pack(*elements):
    """The tuple layer: byte strings, text, integers."""
    packed = b""
    for element in elements:
        if isinstance(element, bytes):
            packed += b"\x01" + element.replace(b"\0", b"\0\xff") + b"\0"
        elif isinstance(element, str):
            packed += b"\x02" + element.encode().replace(b"\0", b"\0\xff") + b"\0"
        else:
            length = (abs(element).bit_length() + 7) // 8
            stored = element if element >= 0 else element + (1 << 8 * length) - 1
            packed += bytes([0x14 + (length if element >= 0 else -length)]) + stored.to_bytes(length, "big")
    return packed


def data(length, seed):
    """Bytes that compress, none of them in a zero block."""
    unit = random.Random(seed).randbytes(64).replace(b"\0", b"\1")
    return (unit * (length // len(unit) + 1))[:length]


class PyServer:
    """fdb-nbd.py: strings are byte strings, or text as a port to Python 3 has them."""
    block_size = 1024

    def __init__(self, rows, text=False):
        self.rows = rows
        self.string = (lambda s: s) if text else (lambda s: s.encode())

    def pack(self, *elements):
        return pack(*(self.string(e) if isinstance(e, str) else e for e in elements))

    def create(self, name, num_blocks):
        self.rows[self.pack("devices", name)] = b""
        self.rows[self.pack("dev", name, "meta", "block_size")] = str(self.block_size).encode()
        self.rows[self.pack("dev", name, "meta", "num_blocks")] = str(num_blocks).encode()

    def write(self, name, offset, written):
        assert offset % self.block_size == 0 and len(written) % self.block_size == 0
        for at in range(0, len(written), self.block_size):
            key = self.pack("dev", name, "blocks", (offset + at) // self.block_size)
            self.rows[key] = zlib.compress(written[at:at + self.block_size])


class ArrayServer:
    """spullara/nbd, its mistakes included."""
    root = "com.sampullara.fdb.array"

    def __init__(self, rows):
        self.rows = rows
        self.prefixes = {(): b"\xfe"}
        self.allocated = random.Random(1).sample(range(64, 4096), 1000)

    def directory(self, *path):
        """The prefix of a directory, which is made where it is not there."""
        if path not in self.prefixes:
            parent = self.directory(*path[:-1])
            prefix = pack(self.allocated.pop())
            node = b"\xfe" + pack(parent)
            self.rows[node + pack(0, path[-1])] = prefix
            self.rows[b"\xfe" + pack(prefix) + pack(b"layer")] = b""
            self.prefixes[path] = prefix
        return self.prefixes[path]

    def metadata(self, name):
        return self.directory(self.root, name, "metadata")

    def create(self, name, size, block_size=512):
        self.make(name, block_size)
        self.rows[self.metadata(name) + pack(b"size")] = size.to_bytes(8, "big")

    def make(self, name, block_size):
        self.rows[self.metadata(name) + pack("block_size")] = block_size.to_bytes(4, "big")
        self.directory(self.root, name, "data")

    def snapshot(self, name, new_name, now_ms):
        self.rows[self.metadata(name) + pack("dependents")] = bytes(7) + b"\1"
        self.make(new_name, self.block_size(name))
        self.rows[self.metadata(new_name) + pack("parent")] = pack(self.root, name)
        self.rows[self.metadata(new_name) + pack("parent_timestamp")] = pack(now_ms)

    def block_size(self, name):
        return int.from_bytes(self.rows[self.metadata(name) + pack("block_size")], "big")

    def stored(self, name, block, until_ms):
        """The newest version of a block of this disk alone."""
        prefix = self.directory(self.root, name, "data") + pack(block)
        times = [t for t in range(NOW_MS - 100, NOW_MS + 1) if t <= until_ms and prefix + pack(t) in self.rows]
        return self.rows[prefix + pack(times[-1])] if times else None

    def visible(self, name, block, until_ms=1 << 62):
        found = self.stored(name, block, until_ms)
        parent = self.rows.get(self.metadata(name) + pack("parent"))
        if found is not None or parent is None:
            return found
        parent_name = parent.split(b"\0")[1][1:].decode()
        time = self.rows[self.metadata(name) + pack("parent_timestamp")]
        return self.visible(parent_name, block, min(until_ms, int.from_bytes(time[1:], "big")))

    def write(self, name, offset, written, now_ms):
        size = self.block_size(name)
        offset = (offset + (1 << 31)) % (1 << 32) - (1 << 31)   # as a signed number of 32 bits
        first, skip = divmod(offset, size)
        last = (offset + len(written)) // size   # one too many where the end is aligned
        for block in range(first, last + 1):
            at = (block - first) * size - skip
            inside = written[max(0, at):at + size]
            before = self.visible(name, block) or bytes(size)
            start = max(0, -at)
            value = before[:start] + inside + before[start + len(inside):]
            self.rows[self.directory(self.root, name, "data") + pack(block, now_ms)] = value


class Disk:
    """What a disk must contain."""

    def __init__(self, layout, name, size):
        self.layout, self.name, self.size = layout, name, size
        self.pieces = {}   # by offset, in blocks of 512 bytes

    def expect(self, offset, content):
        assert offset % 512 == 0
        content += bytes(-len(content) % 512)
        for at in range(0, len(content), 512):
            self.pieces[offset + at] = content[at:at + 512]

    def extents(self):
        """Stretches that are not all zero: (offset, bytes)."""
        found = []
        for offset, piece in sorted(self.pieces.items()):
            if offset >= self.size or not any(piece):
                continue
            if found and found[-1][0] + len(found[-1][1]) == offset:
                found[-1] = (found[-1][0], found[-1][1] + piece)
            else:
                found.append((offset, piece))
        return [(offset, content[:self.size - offset]) for offset, content in found]


def py_disks(rows):
    server = PyServer(rows)
    example = Disk("py", "example", 1_000_000 * 1024)
    server.create(example.name, 1_000_000)
    for offset, length in ((0, 3 * 1024), (255 * 1024, 2 * 1024), (65535 * 1024, 2 * 1024), (999_999 * 1024, 1024)):
        written = data(length, offset)
        server.write(example.name, offset, written)
        example.expect(offset, written)
    server.write(example.name, 1024, data(1024, "again"))
    example.expect(1024, data(1024, "again"))
    server.write(example.name, 600_000 * 1024, bytes(1024))       # stored zeroes
    server.write(example.name, 1_000_000 * 1024, data(1024, 1))   # beyond the end, which that server does not check

    neighbour = Disk("py", "example\0d\u00e9", 3 * 1024)
    server.create(neighbour.name, 3)
    server.write(neighbour.name, 1024, data(1024, 2))
    neighbour.expect(1024, data(1024, 2))

    empty = Disk("py", "empty", 5 * 1024)
    server.create(empty.name, 5)

    ported = Disk("py", "ported", 100 * 1024)
    port = PyServer(rows, text=True)
    port.create(ported.name, 100)
    port.write(ported.name, 98 * 1024, data(2048, 3))
    ported.expect(98 * 1024, data(2048, 3))
    return [example, neighbour, empty, ported]


def array_disks(rows):
    server = ArrayServer(rows)
    start = NOW_MS - 50

    # Versions, an odd size, and snapshots of snapshots that their parents' later writes do not reach.
    volume = Disk("array", "volume", 1_000_001)
    server.create(volume.name, volume.size)
    server.write(volume.name, 512, data(2048, 10), start)
    server.write(volume.name, 1024, data(512, 11), start + 1)
    server.write(volume.name, 700, data(100, 12), start + 2)   # part of a block
    server.write(volume.name, 999_936, data(512, 13), start + 3)
    server.rows[server.metadata(volume.name) + pack(b"lease")] = bytes(8)   # nobody has it
    before = b"".join(server.visible(volume.name, block) or bytes(512) for block in range(16))
    server.snapshot(volume.name, "snapshot", start + 4)
    server.write("snapshot", 4096, data(512, 14), start + 5)
    server.snapshot("snapshot", "snapshot of it", start + 6)
    server.write(volume.name, 1024, data(1024, 15), start + 7)
    server.write("snapshot", 4096, data(512, 16), start + 8)
    server.write("snapshot of it", 1536, data(512, 17), start + 9)

    volume.expect(0, before)
    volume.expect(1024, data(1024, 15))
    snapshot = Disk("array", "snapshot", volume.size)
    snapshot.expect(0, before)
    snapshot.expect(4096, data(512, 16))
    second = Disk("array", "snapshot of it", volume.size)
    second.expect(0, before)
    second.expect(1536, data(512, 17))
    second.expect(4096, data(512, 14))
    for disk in (volume, snapshot, second):
        disk.expect(999_936, data(512, 13))

    # Offsets that are taken for signed 32-bit numbers.
    big = Disk("array", "big", 5 * GiB)
    server.create(big.name, big.size, block_size=1024)
    laps = []
    for offset, seed in ((3 * GiB, 20), (2 * GiB, 21), (4 * GiB - 1024, 22), (GiB, 23), (4 * GiB + 8192, 24)):
        server.write(big.name, offset, data(1024, seed), start)
        laps.append((offset % (4 * GiB), data(1024, seed)))
    # Across 2 GiB: the two blocks behind it have been written from there too, the second one as the one too many.
    server.write(big.name, 2 * GiB - 2048, data(2048, 25), start + 1)
    server.write(big.name, 2 * GiB - 1024, data(4096, 26), start + 2)
    laps += [(2 * GiB - 2048, data(2048, 25)), (2 * GiB - 1024, data(4096, 26)[:1024])]
    laps += [(2 * GiB + 2048, data(4096, 26)[3072:])]
    for offset, written in laps:
        big.expect(offset, written)
        if offset < GiB:
            big.expect(offset + 4 * GiB, written)

    never_opened = Disk("array", "empty", 4096)
    server.create(never_opened.name, never_opened.size)
    return [volume, snapshot, second, big, never_opened]


def make():
    """All rows, and the disks that they are."""
    rows = {}
    disks = py_disks(rows) + array_disks(rows)
    return rows, disks


def main():
    rows, disks = make()
    for key, value in sorted(rows.items()):
        print("row", key.hex(), value.hex() or "-")
    for disk in disks:
        print("disk", disk.layout, disk.size, disk.name.encode().hex())
        for offset, content in disk.extents():
            print("extent", offset, len(content), zlib.crc32(content))


if __name__ == "__main__":
    main()
