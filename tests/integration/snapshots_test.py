#!/usr/bin/python3
"""Snapshots as clients see them, taken and removed while the volumes are written.

FDB_NBD_CUTS sets how many snapshots of all volumes are taken (40 where it is not set).
"""

import json
import os
import random
import struct
import threading
from concurrent.futures import ThreadPoolExecutor

from lib import *   # noqa: F403
from lib import Failure, Server, expect, expect_equal, fdb_nbd, main, test, tool

VOLUMES = 32
READERS = 8
KEPT = 40   # of these snapshots at a time
CUTS = int(os.environ.get("FDB_NBD_CUTS") or 40)


class Control:
    """A connection to the server's control socket."""

    def __init__(self, server):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(60)
        self.socket.connect(server.control_path)
        self.file = self.socket.makefile("rb")

    def call(self, verb, **fields):
        self.socket.sendall(json.dumps({"verb": verb, **fields}).encode() + b"\n")
        while True:
            answer = json.loads(self.file.readline())
            if "error" in answer:
                raise Failure(f"{verb} {fields}", "done", answer["error"])
            if "result" in answer:
                return answer["result"]


def served(volumes, **options):
    return Server(volumes=volumes, store="rocksdb:DIR", tcp=False, **options)


def count_of(server, name):
    with server.session(name) as wire:
        count, = struct.unpack(">Q", wire.read(0, 8))
        wire.disconnect()
    return count


class Counter(threading.Thread):
    """Writes 1, 2, 3, … to the volumes in turn, each when the one before has been answered."""

    def __init__(self, server):
        super().__init__()
        self.wires = [server.session(f"v{i}") for i in range(VOLUMES)]
        self.answered = 0
        self.stopping = False

    def run(self):
        while not self.stopping:
            count = self.answered + 1
            self.wires[count % VOLUMES].write(0, struct.pack(">Q", count) * 512)
            self.answered = count


class Noise(threading.Thread):
    """Keeps several transactions of a volume in flight, beside the counter's block."""

    def __init__(self, server, index):
        super().__init__()
        self.wire = server.session(f"v{index}")
        self.random = random.Random(index)
        self.stopping = False

    def run(self):
        while not self.stopping:
            length = self.random.choice((4, 64, 512)) * KiB
            self.wire.write(MiB + self.random.randrange(16) * MiB, pattern(length, self.random.randrange(1 << 30)))


@test(limit=3600)
def each_snapshot_of_many_volumes_is_a_prefix_of_what_was_written():
    with served({f"v{i}": 64 * MiB for i in range(VOLUMES)}) as server:
        control = Control(server)
        counter = Counter(server)
        noises = [Noise(server, index) for index in (0, 7, 31)]
        for thread in (counter, *noises):
            thread.start()
        own = threading.local()   # each reader's Control

        def remove(name):
            own.control.call("rm", name=name)

        try:
            with ThreadPoolExecutor(READERS, initializer=lambda: setattr(own, "control", Control(server))) as readers:
                kept = []
                for cut in range(CUTS):
                    before = counter.answered
                    names = [f"v{i}@cut{cut}" for i in range(VOLUMES)]
                    control.call("snap", names=names)
                    after = counter.answered
                    counts = list(readers.map(lambda name: count_of(server, name), names))
                    last = max(counts)
                    expect(f"the newest count in cut {cut}", before <= last <= after + 1, f"from {before} to {after + 1}", last)
                    expected = [max(last - (last - i) % VOLUMES, 0) for i in range(VOLUMES)]
                    expect_equal(f"the counts in cut {cut}", counts, expected)
                    # What goes is merged into the volumes, or the snapshots above, while these are written.
                    if cut % 4 == 3:
                        kept.append(names)
                    else:
                        list(readers.map(remove, names))
                    if len(kept) > KEPT:
                        list(readers.map(remove, kept.pop(0)))
        finally:
            for thread in (counter, *noises):
                thread.stopping = True
                thread.join()
        expect("the counter", counter.answered > CUTS, "to go on all the time", counter.answered)
        expect_equal("what check finds", control.call("check")["findings"], [])


def map_of(server, name, context):
    """What nbdinfo says of an export: (offset, length, flags)."""
    done = tool("nbdinfo", "--json", f"--map={context}", server.uri(name))
    return [(extent["offset"], extent["length"], extent["type"]) for extent in json.loads(done.stdout)]


@test
def clients_are_told_what_has_changed_since_a_snapshot_and_in_which_layer_it_is():
    requires("nbdinfo")
    with served({"disk": 32 * MiB, "other": MiB}) as server:
        control = Control(server)
        with server.session("disk") as wire:
            wire.write(0, b"a" * MiB)
            control.call("snap", names=["disk@one"])
            wire.write(64 * KiB, b"b" * 64 * KiB)
            wire.trim(512 * KiB, 64 * KiB)
            control.call("snap", names=["disk@two"])
            wire.write(16 * MiB, b"c" * 4096)
            wire.disconnect()
        since_one = [(0, 64 * KiB, 0), (64 * KiB, 64 * KiB, 1), (128 * KiB, 384 * KiB, 0), (512 * KiB, 64 * KiB, 1)]
        expect_equal("since one", map_of(server, "disk", "fdb-nbd:changed-since/one"),
                     since_one + [(576 * KiB, 16 * MiB - 576 * KiB, 0), (16 * MiB, 4096, 1), (16 * MiB + 4096, 16 * MiB - 4096, 0)])
        expect_equal("since one, in two", map_of(server, "disk@two", "fdb-nbd:changed-since/one"),
                     since_one + [(576 * KiB, 32 * MiB - 576 * KiB, 0)])
        expect_equal("since two", map_of(server, "disk", "fdb-nbd:changed-since/two"),
                     [(0, 16 * MiB, 0), (16 * MiB, 4096, 1), (16 * MiB + 4096, 16 * MiB - 4096, 0)])
        expect_equal("depth", map_of(server, "disk", "qemu:allocation-depth"),
                     [(0, MiB, 2), (MiB, 15 * MiB, 0), (16 * MiB, 4096, 1), (16 * MiB + 4096, 16 * MiB - 4096, 0)])
        with server.connect() as wire:
            wire.start()
            wire.structured_replies()
            ours = ["fdb-nbd:changed-since/one", "fdb-nbd:changed-since/two"]
            for query in ("fdb-nbd:", "fdb-nbd:changed-since/"):
                expect_equal(f"contexts for {query}", sorted(wire.contexts(9, "disk", [query])), ours)
            expect_equal("contexts of another volume", list(wire.contexts(9, "other", ["fdb-nbd:"])), [])
            expect_equal("contexts without a snapshot", list(wire.contexts(10, "disk", ["fdb-nbd:changed-since/none"])), [])
            expect_equal("several contexts", sorted(wire.contexts(10, "disk", [ours[0], "base:allocation", "qemu:allocation-depth"])),
                         ["base:allocation", ours[0], "qemu:allocation-depth"])
        program = ("seen = {}\n"
                   "h.block_status(1 << 20, 0, lambda name, offset, entries, error: seen.update({name: list(entries)}) or 0)\n"
                   "assert sorted(seen) == ['base:allocation', 'fdb-nbd:changed-since/one', 'qemu:allocation-depth'], seen\n"
                   "assert seen['fdb-nbd:changed-since/one'][:4] == [65536, 0, 65536, 1], seen\n")
        selected = [argument for name in ("base:allocation", "fdb-nbd:changed-since/one", "qemu:allocation-depth")
                    for argument in ("-c", f"h.add_meta_context('{name}')")]
        tool("nbdsh", *selected, "-c", f"h.connect_uri('{server.uri('disk')}')", "-c", program)
        # One that goes is an error, not an old answer.
        control.call("rm", name="disk@two")
        tool("nbdinfo", "--map=fdb-nbd:changed-since/two", server.uri("disk"), status=1)


@test
def a_snapshot_is_read_by_qemu_while_the_volume_is_written():
    requires("qemu-img")
    with served({"disk": 32 * MiB}) as server:
        control = Control(server)
        before = pattern(8 * MiB, 1)
        with server.session("disk") as wire:
            wire.write(4 * MiB, before)
            control.call("snap", names=["disk@a"])
            wire.write(4 * MiB, pattern(8 * MiB, 2))
            wire.trim(10 * MiB, 4 * MiB)
            copy = os.path.join(server.directory, "copy.raw")
            tool("qemu-img", "convert", "-O", "raw", server.uri("disk@a"), copy)
            with open(copy, "rb") as file:
                expect_equal("the copy of the snapshot", file.read(), bytes(4 * MiB) + before + bytes(20 * MiB))
            wire.disconnect()


@test
def snapshots_are_listed_and_read_only():
    with served({"disk": 4 * MiB}) as server:
        control = Control(server)
        control.call("snap", names=["disk@a"])
        with server.connect() as wire:
            wire.start()
            expect_equal("exports", sorted(wire.list_exports()), ["disk", "disk@a"])
        with server.session("disk@a") as wire:
            wire.expect(EPERM, CMD_WRITE, 0, 4096, payload=bytes(4096))
            expect_equal("what a snapshot of nothing reads as", wire.read(0, 4096), bytes(4096))
            wire.disconnect()


@test
def a_volume_in_use_is_rolled_back_when_its_clients_may_be_disconnected():
    with served({"disk": 64 * MiB}) as server:
        control = Control(server)
        with server.session("disk") as wire, server.session("disk") as idle:
            wire.write(0, b"a" * 4096)
            control.call("snap", names=["disk@a"])
            wire.write(0, b"b" * 4096)
            refused = ""
            try:
                control.call("rollback", name="disk@a")
            except Failure as failure:
                refused = str(failure)
            expect("a rollback under clients", "in use by 2" in refused, "in use by 2 sessions", refused)
            expect_equal("what the client reads", bytes(wire.read(0, 4096)), b"b" * 4096)
            control.call("rollback", name="disk@a", disconnect=True)
            for other in (wire, idle):
                other.request(CMD_READ, 0, 4096)
                other.expect_closed("a connection from before")
        with server.session("disk") as wire:
            expect_equal("what a client that connects anew reads", bytes(wire.read(0, 4096)), b"a" * 4096)
            wire.write(0, b"c" * 4096)
        with server.session("disk@a") as wire:
            expect_equal("the snapshot", bytes(wire.read(0, 4096)), b"a" * 4096)
        expect_equal("check", control.call("check")["findings_count"], 0)


@test
def a_snapshot_outlives_the_death_of_the_server():
    with served({"disk": 4 * MiB}) as server:
        with server.session("disk") as wire:
            wire.write(0, pattern(64 * KiB, 1))
            Control(server).call("snap", names=["disk@a"])
            wire.write(0, pattern(64 * KiB, 2))
        server.kill()
        server.start()
        with server.session("disk@a") as wire:
            expect_equal("the snapshot", wire.read(0, 64 * KiB), pattern(64 * KiB, 1))
            wire.disconnect()
        with server.session("disk") as wire:
            expect_equal("the volume", wire.read(0, 64 * KiB), pattern(64 * KiB, 2))
            wire.disconnect()


if __name__ == "__main__":
    main()
