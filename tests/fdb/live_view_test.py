#!/usr/bin/python3
"""A server with --read-only beside the one that writes, on one real cluster: every read there fits the one order of all writes, and the writer notices nothing.

FDB_NBD_LIVE_SECONDS sets how long they run side by side (8 where it is not set), FDB_NBD_SEED what happens.
"""

import json
import os
import random
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "integration"))
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
sys.dont_write_bytecode = True

import fdb_cluster   # noqa: E402
import registers   # noqa: E402
from lib import *   # noqa: F403,E402
from lib import Failure, KiB, MiB, Server, Skip, expect, expect_equal, eventually, fdb_nbd, main, random_seed, test   # noqa: E402
from registers import READ, WRITE   # noqa: E402
from stamping_clients import BLOCK, BLOCKS, VOLUME_BYTES, Client, History, value_of   # noqa: E402

SECONDS = float(os.environ.get("FDB_NBD_LIVE_SECONDS") or 8)


def one_cluster():
    if fdb_cluster.missing():
        raise Skip(fdb_cluster.missing())
    return fdb_cluster.Cluster("memory")


class Pair:
    """The server that writes, and the one that only reads."""

    def __init__(self, cluster, size):
        self.store = f"fdb:{cluster.cluster_file}?prefix=live"
        self.writer = Server(volumes={"disk": size}, store=self.store, tcp=False)
        self.reader = Server(volumes={}, store=self.store, tcp=False, read_only=True)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.reader.__exit__(*error)
        self.writer.__exit__(*error)

    def locks(self):
        return json.loads(fdb_nbd("lock", "ls", "--json", store=self.store).stdout)["locks"]


class Reader(threading.Thread):
    """Reads blocks of the volume, one or several at a time, and notes them in the history."""

    def __init__(self, server, history, seed):
        super().__init__(daemon=True)
        self.server, self.history, self.chance = server, history, random.Random(seed)
        self.stopping, self.error = threading.Event(), None

    def run(self):
        try:
            with self.server.session("disk") as wire:
                while not self.stopping.is_set():
                    first = self.chance.randrange(BLOCKS)
                    count = self.chance.randint(1, min(8, BLOCKS - first))
                    ops = [self.history.begin(READ, block, None, 1) for block in range(first, first + count)]
                    data = bytes(wire.read(first * BLOCK, count * BLOCK))
                    for at, op in enumerate(ops):
                        op.value = value_of(op.block, data[at * BLOCK:][:BLOCK])
                        self.history.end(op, True)
        except Exception as error:   # told by the test's own thread
            self.error = error


@test(limit=180)
def a_read_only_server_shows_every_write_that_was_acknowledged_before():
    chance = random.Random(random_seed())
    history = History()
    with one_cluster() as cluster, Pair(cluster, VOLUME_BYTES) as pair:
        clients = [Client(pair.writer, 0, history, chance.random(), patience_s=20) for _ in range(2)]
        readers = [Reader(pair.reader, history, chance.random()) for _ in range(2)]
        for thread in clients + readers:
            thread.start()
        eventually("an acknowledged write", lambda: history.last_acknowledged[0], within=20)
        before, = pair.locks()
        taken = []
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            name = f"disk@{len(taken)}"
            fdb_nbd("snap", name, store=pair.store)
            taken.append(name)
            if len(taken) % 3 == 0:
                for old in taken[-3:]:
                    fdb_nbd("rm", old, store=pair.store)
        after, = pair.locks()
        for thread in clients + readers:
            thread.stopping.set()
        for thread in clients + readers:
            thread.join()
        for reader in readers:
            if reader.error:
                raise reader.error
        expect_equal("holder and epoch", (after["holder"], after["epoch"]), (before["holder"], before["epoch"]))
        expect("failed requests of the writer's clients", all(op.is_ok for op in history.ops if op.end != registers.FOREVER and op.kind == WRITE), "none", "some")
    if history.wrong:
        raise history.wrong
    reads = sum(op.kind == READ and op.is_ok and op.server == 1 for op in history.ops)
    print(f"{len(taken)} snapshots, {sum(op.kind == WRITE and op.is_ok for op in history.ops)} writes, {reads} blocks read beside them")
    expect("blocks read", reads > 100, "more than 100", reads)
    expect_equal("violation of one order", registers.find_violation(history.ops), None)


@test(limit=120)
def a_read_only_server_takes_no_volume_and_refuses_writes():
    with one_cluster() as cluster, Pair(cluster, 64 * MiB) as pair:
        with pair.reader.session("disk") as wire:
            expect_equal("holders", pair.locks(), [])
            wire.expect(EPERM, CMD_WRITE, 0, 4 * KiB, payload=bytes(4 * KiB))
            with pair.writer.session("disk") as other:
                other.write(1 * MiB, b"x" * 4096)
                expect_equal("what the other server wrote", bytes(wire.read(1 * MiB, 4096)), b"x" * 4096)
                expect_equal("holders", len(pair.locks()), 1)
        info = tool("nbdinfo", "--json", pair.reader.uri("disk"), status=0).stdout
        expect("nbdinfo", json.loads(info)["exports"][0]["is_read_only"], "read-only", info)


@test(limit=120)
def a_read_only_server_follows_a_resize_and_a_removal():
    with one_cluster() as cluster, Pair(cluster, 64 * MiB) as pair:
        with pair.reader.session("disk") as wire:
            fdb_nbd("resize", "disk", "128M", store=pair.store)
            with pair.reader.session("disk"):
                pass   # whoever connects learns of the size, and so do all
            expect_equal("what lies behind the old end", bytes(wire.read(100 * MiB, 4096)), bytes(4096))
            fdb_nbd("rm", "disk", store=pair.store)
            reply = wire.call(CMD_READ, 0, 4 * KiB)
            expect("a read", reply.error != 0, "an error", reply.error)


@test
def a_read_only_server_cannot_be_told_to_take_volumes():
    done = tool(PROGRAM, "--store", "fdb:", "serve", "--read-only", "--force", status=2)
    expect("the error", "--force" in done.stderr, "names the option", done.stderr)


if __name__ == "__main__":
    main()
