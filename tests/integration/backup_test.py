#!/usr/bin/python3
"""export-diff and import-diff: a chain of streams makes the same volume elsewhere, whatever interrupts them.

FDB_NBD_BACKUPS sets how many snapshots the chain has (10 where it is not set).
"""

import contextlib
import datetime
import json
import os
import random
import socket
import subprocess

from lib import *   # noqa: F403
from lib import CLUSTER_FILE, PROGRAM, Failure, Server, cluster_store, expect, expect_data, expect_equal, fdb_nbd, main, random_seed, test

SIZE = 24 * MiB
BACKUPS = int(os.environ.get("FDB_NBD_BACKUPS") or 10)


@contextlib.contextmanager
def source_server():
    with Server(volumes={"disk": SIZE}, store="rocksdb:DIR", tcp=False) as server:
        yield server


@contextlib.contextmanager
def target_store():
    """A store that nobody serves: each command opens it, and dies with it."""
    with tempfile.TemporaryDirectory(prefix="fdb-nbd-test-") as directory:
        yield cluster_store() if CLUSTER_FILE else f"rocksdb:{directory}/store"


def names(store):
    return fdb_nbd("ls", "--names", "--snapshots", store=store).stdout.split()


def contents(store, name, directory):
    path = os.path.join(directory, "image")
    fdb_nbd("export", name, path, store=store)
    with open(path, "rb") as file:
        data = file.read()
    os.unlink(path)
    return data


class Disk:
    """A volume that is changed at random, and what it should hold."""

    def __init__(self, server, rng):
        self.server, self.rng = server, rng
        self.data = bytearray(SIZE)
        self.snapshots = {}

    def change(self):
        rng = self.rng
        with self.server.session("disk") as wire:
            for _ in range(rng.randrange(1, 40)):
                length = rng.randrange(1, 300_000)
                offset = rng.randrange(0, SIZE - length)
                if rng.randrange(4):
                    data = rng.randbytes(length) if rng.randrange(2) else bytes([rng.randrange(256)]) * length
                    wire.write(offset, data)
                else:
                    data = bytes(length)
                    (wire.trim if rng.randrange(2) else wire.zero)(offset, length)
                self.data[offset:offset + length] = data
            wire.disconnect()

    def snap(self, name):
        fdb_nbd("snap", f"disk@{name}", store=self.server.store)
        self.snapshots[name] = bytes(self.data)


def run_killed(rng, *args, store, result=None):
    """Runs a command, killed again and again after a while, until it ends by itself or its result is there; how often."""
    for patience in range(1000):
        with subprocess.Popen([PROGRAM, "--store", store, *args], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            try:
                _, err = process.communicate(timeout=rng.random() * 0.02 * (patience + 1))
                expect_equal(f"exit status of {' '.join(args)} ({err.decode()})", process.returncode, 0)
                return patience
            except subprocess.TimeoutExpired:
                process.kill()
        if result and os.path.exists(result):
            return patience + 1
    raise Failure(" ".join(args), "an end", "none")


@test(limit=300)
def a_chain_of_killed_exports_and_imports_is_equal_at_each_snapshot():
    rng = random.Random(random_seed())
    with source_server() as server, target_store() as target, tempfile.TemporaryDirectory(prefix="fdb-nbd-test-") as directory:
        disk = Disk(server, rng)
        kills = 0
        before = []
        for number in range(BACKUPS):
            disk.change()
            disk.snap(f"s{number}")
            path = os.path.join(directory, f"{number}.diff")
            kills += run_killed(rng, "export-diff", f"disk@s{number}", path, *before, store=server.store, result=path)
            expect("FILE.partial", not os.path.exists(path + ".partial"), "gone", "there")
            kills += run_killed(rng, "import-diff", path, "copy", store=target)
            before = ["--from", f"s{number}"]
            if rng.randrange(3) == 0 and number > 1:   # what is merged away must not matter
                fdb_nbd("rm", f"disk@s{number - 1}", store=server.store)
        expect("kills", kills > 0, "some", kills)
        expect_equal("what is there", names(target), ["copy"] + [f"copy@s{number}" for number in range(BACKUPS)])
        for name, data in disk.snapshots.items():
            expect_data(f"snapshot {name}", contents(target, f"copy@{name}", directory), data)
        expect_data("the volume", contents(target, "copy", directory), bytes(disk.data))
        fdb_nbd("check", store=target)


@test(limit=120)
def damaged_and_cut_streams_change_nothing():
    rng = random.Random(random_seed())
    with source_server() as server, target_store() as target, tempfile.TemporaryDirectory(prefix="fdb-nbd-test-") as directory:
        disk = Disk(server, rng)
        full, part, bad = (os.path.join(directory, name) for name in ("full", "part", "bad"))
        disk.change()
        disk.snap("a")
        fdb_nbd("export-diff", "disk@a", full, store=server.store)
        disk.change()
        disk.snap("b")
        fdb_nbd("export-diff", "disk@b", "--from", "a", part, store=server.store)
        for path, there in ((full, []), (part, ["copy", "copy@a"])):
            with open(path, "rb") as file:
                good = file.read()
            for _ in range(4):
                data = bytearray(good)
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
                for damaged in (bytes(data), good[:rng.randrange(len(good))], good + b"x"):
                    with open(bad, "wb") as file:
                        file.write(damaged)
                    status = fdb_nbd("import-diff", bad, "copy", store=target, status=None).returncode
                    expect("exit status", status in (1, 9), "1 or 9", status)
                    expect_equal("what is there", names(target), there)
            if there:
                expect_data("the volume", contents(target, "copy", directory), disk.snapshots["a"])
            fdb_nbd("import-diff", path, "copy", store=target)
        expect_data("the volume in the end", contents(target, "copy", directory), bytes(disk.data))


@test(limit=120)
def a_stream_is_only_taken_where_it_belongs():
    rng = random.Random(random_seed())
    with source_server() as server, target_store() as target, tempfile.TemporaryDirectory(prefix="fdb-nbd-test-") as directory:
        disk = Disk(server, rng)
        streams = []
        for name in ("a", "b", "c"):
            disk.change()
            disk.snap(name)
            streams.append(os.path.join(directory, name))
            fdb_nbd("export-diff", f"disk@{name}", streams[-1], *(["--from", "ab"[len(streams) - 2]] if len(streams) > 1 else []), store=server.store)
        a, b, c = streams
        fdb_nbd("import-diff", b, "copy", store=target, status=3)
        fdb_nbd("import-diff", a, "copy", store=target)
        fdb_nbd("import-diff", c, "copy", store=target, status=3)
        again = fdb_nbd("import-diff", a, "copy", store=target)
        expect("the message", "already" in again.stderr, "already", again.stderr)
        # A snapshot of the same name that is another one.
        fdb_nbd("create", "other", "24M", store=target)
        fdb_nbd("snap", "other@a", store=target)
        fdb_nbd("import-diff", b, "other", store=target, status=10)
        fdb_nbd("import-diff", a, "other", store=target, status=4)
        # One that was changed since.
        image = os.path.join(directory, "other-image")
        with open(image, "wb") as file:
            file.write(b"x" * 4096)
        fdb_nbd("import", "--into", image, "copy", store=target)
        refused = fdb_nbd("import-diff", b, "copy", store=target, status=10)
        expect("the message", "roll" in refused.stderr, "what to do", refused.stderr)
        fdb_nbd("rollback", "copy@a", store=target)
        fdb_nbd("import-diff", b, "copy", store=target)
        fdb_nbd("import-diff", c, "copy", store=target)
        expect_data("the volume", contents(target, "copy", directory), bytes(disk.data))
        expect_equal("what is there", names(target), ["copy", "copy@a", "copy@b", "copy@c", "other", "other@a"])


@test(limit=120)
def streams_go_through_pipes_and_of_volumes_as_they_are():
    rng = random.Random(random_seed())
    with source_server() as server, target_store() as target, tempfile.TemporaryDirectory(prefix="fdb-nbd-test-") as directory:
        disk = Disk(server, rng)

        def pipe(*args):
            command = [PROGRAM, "--store", server.store, "export-diff", *args, "-"]
            with subprocess.Popen(command, stdout=subprocess.PIPE) as export:
                done = subprocess.run([PROGRAM, "--store", target, "import-diff", "-", "copy"], stdin=export.stdout, capture_output=True, timeout=60, check=False)
                export.stdout.close()
            expect_equal(f"exit statuses ({done.stderr.decode()})", (export.returncode, done.returncode), (0, 0))

        disk.change()
        disk.snap("a")
        pipe("disk@a")
        disk.change()
        fdb_nbd("resize", "disk", "25M", store=server.store)
        disk.data += bytes(MiB)
        disk.snap("b")
        pipe("disk@b", "--from", "a")
        disk.change()
        fdb_nbd("resize", "disk", "20M", "--allow-shrink", store=server.store)
        del disk.data[20 * MiB:]
        pipe("disk", "--from", "b")
        expect_equal("snapshots of the source", names(server.store), ["disk", "disk@a", "disk@b"])
        expect_equal("snapshots of the copy", names(target), ["copy", "copy@a", "copy@b"])
        expect_data("the volume", contents(target, "copy", directory), bytes(disk.data))
        expect_data("its snapshot", contents(target, "copy@b", directory), disk.snapshots["b"])
        fdb_nbd("check", store=target)


@test(limit=120)
def exports_of_a_volume_as_it_is_do_not_meddle_with_each_other():
    with source_server() as server, target_store() as target, tempfile.TemporaryDirectory(prefix="fdb-nbd-test-") as directory:
        before, after = (random.Random(seed).randbytes(8 * MiB) for seed in (1, 2))

        def write(data):
            with server.session("disk") as wire:
                wire.write(0, data)
                wire.disconnect()

        def exports():
            return [s["name"] for s in json.loads(fdb_nbd("info", "disk", "--json", store=server.store).stdout)["snapshots"]]

        write(before)
        # Stands in the middle, since nobody reads what it writes.
        with subprocess.Popen([PROGRAM, "--store", server.store, "export-diff", "disk", "-"], stdout=subprocess.PIPE) as first:
            begun = first.stdout.read(1)
            write(after)
            fdb_nbd("export-diff", "disk", os.path.join(directory, "second"), store=server.store)
            with open(os.path.join(directory, "first"), "wb") as file:
                file.write(begun + first.stdout.read())
        expect_equal("exit status", first.returncode, 0)
        expect_equal("snapshots", exports(), [])
        for name, data in (("first", before), ("second", after)):
            fdb_nbd("import-diff", os.path.join(directory, name), name, store=target)
            expect_data(name, contents(target, name, directory), data + bytes(SIZE - len(data)))
        # One that was killed leaves its snapshot, until the next one.
        with subprocess.Popen([PROGRAM, "--store", server.store, "export-diff", "disk", "-"], stdout=subprocess.PIPE) as killed:
            killed.stdout.read(1)
            killed.kill()
        expect_equal("snapshots", len(exports()), 1)
        fdb_nbd("export-diff", "disk", os.path.join(directory, "third"), store=server.store)
        expect_equal("snapshots", exports(), [])


@test(limit=120)
def leftovers_of_exports_that_nobody_knows_go_once_they_are_old():
    with source_server() as server, tempfile.TemporaryDirectory(prefix="fdb-nbd-test-") as directory:
        fdb_nbd("create", "other", str(SIZE), store=server.store)

        def snap(name, age):
            created = (datetime.datetime.now(datetime.timezone.utc) - age).strftime("%Y-%m-%dT%H:%M:%SZ")
            with socket.socket(socket.AF_UNIX) as control:
                control.connect(server.control_path)
                control.sendall(json.dumps({"verb": "snap", "names": [name], "created": created}).encode() + b"\n")
                with control.makefile("r") as answers:
                    answer = answers.readline()
            expect("the answer", answer.startswith('{"result"'), "a result", answer)

        def left_by_export(volume):
            fdb_nbd("export-diff", volume, "--force", os.path.join(directory, "stream"), store=server.held_store)
            return {s["name"] for s in json.loads(fdb_nbd("info", volume, "--json", store=server.store).stdout)["snapshots"]}

        day = datetime.timedelta(days=1)
        old, read, young = (f".export-diff-{host:016x}-{4711:08x}-{1:016x}" for host in (1, 2, 3))   # of other hosts
        alike = ".export-diff-of-mine"
        for name, age in ((old, 8 * day), (read, 8 * day), (young, 6 * day), (".export-diff", 6 * day), (alike, 8 * day)):
            snap(f"disk@{name}", age)
        with server.session(f"disk@{read}") as wire:
            expect_equal("snapshots", left_by_export("disk"), {read, young, ".export-diff", alike})
            wire.disconnect()
        fdb_nbd("rm", "disk@.export-diff", store=server.store)
        snap("disk@.export-diff", 8 * day)
        expect_equal("snapshots", left_by_export("disk"), {young, alike})
        # One that is known to run keeps its snapshot for as long as it takes.
        with server.session("disk") as wire:
            wire.write(0, random.Random(1).randbytes(8 * MiB))
            wire.disconnect()
        with subprocess.Popen([PROGRAM, "--store", server.store, "export-diff", "disk", "-"], stdout=subprocess.PIPE) as running:
            running.stdout.read(1)
            info = json.loads(fdb_nbd("info", "disk", "--json", store=server.store).stdout)
            name, = {s["name"] for s in info["snapshots"]} - {young, alike}
            snap(f"other@{name}", 8 * day)
            expect_equal("snapshots", left_by_export("other"), {name})
            running.stdout.read()
        expect_equal("exit status", running.returncode, 0)
        expect_equal("snapshots", left_by_export("other"), set())


@test(limit=120)
def an_import_stays_within_the_quota():
    rng = random.Random(random_seed())
    with source_server() as server, target_store() as target, tempfile.TemporaryDirectory(prefix="fdb-nbd-test-") as directory:
        disk = Disk(server, rng)
        full, part = (os.path.join(directory, name) for name in ("full", "part"))
        disk.snap("a")
        fdb_nbd("export-diff", "disk@a", full, store=server.store)
        with server.session("disk") as wire:
            disk.data[0:4 * MiB] = rng.randbytes(4 * MiB)
            wire.write(0, bytes(disk.data[0:4 * MiB]))
            wire.disconnect()
        disk.snap("b")
        fdb_nbd("export-diff", "disk@b", "--from", "a", part, store=server.store)
        fdb_nbd("import-diff", full, "copy", store=target)
        fdb_nbd("quota", "set", "copy", "3M", store=target)
        refused = fdb_nbd("import-diff", part, "copy", store=target, status=8)
        expect("the message", "copy" in refused.stderr, "copy", refused.stderr)
        expect_equal("what is there", names(target), ["copy", "copy@a"])
        fdb_nbd("quota", "set", "copy", "4M", store=target)
        fdb_nbd("import-diff", part, "copy", store=target)
        expect_data("the volume", contents(target, "copy", directory), bytes(disk.data))
        expect_equal("quota", json.loads(fdb_nbd("info", "copy", "--json", store=target).stdout)["quota_bytes"], 4 * MiB)


@test
def export_diff_replaces_no_file_and_names_what_is_missing():
    with source_server() as server, tempfile.TemporaryDirectory(prefix="fdb-nbd-test-") as directory:
        path = os.path.join(directory, "stream")
        fdb_nbd("snap", "disk@a", store=server.store)
        fdb_nbd("export-diff", "disk@none", path, store=server.store, status=3)
        fdb_nbd("export-diff", "disk@a", "--from", "none", path, store=server.store, status=3)
        fdb_nbd("export-diff", "disk@a", path, store=server.store)
        fdb_nbd("export-diff", "disk@a", path, store=server.store, status=4)
        fdb_nbd("export-diff", "disk@a", path, "--force", store=server.store)
        fdb_nbd("import-diff", os.path.join(directory, "none"), "x", store=server.store, status=3)
        fdb_nbd("import-diff", "/dev/null", "x", store=server.store, status=9)
        expect_equal("snapshots", [s["name"] for s in json.loads(fdb_nbd("info", "disk", "--json", store=server.store).stdout)["snapshots"]], ["a"])


if __name__ == "__main__":
    main()
