#!/usr/bin/python3
"""migrate: volumes with their snapshots to another store and back, ended at any point.

Beside a cluster (tests/fdb/with_cluster.py) the other store is in it. FDB_NBD_MIGRATE_VOLUMES, _SNAPSHOTS and _KILLS set the size of the long test
(2, 3 and 6 where they are not set), FDB_NBD_SEED what happens in it.
"""

import hashlib
import json

from cli_lib import *   # noqa: F403
from cli_lib import expect_words, json_of
from lib import CLUSTER_FILE, KiB, MiB, PROGRAM, Server, cluster_store, eventually, expect, expect_equal, fdb_nbd, main, pattern, random_seed, test, tool

VOLUMES = int(os.environ.get("FDB_NBD_MIGRATE_VOLUMES") or 2)
SNAPSHOTS = int(os.environ.get("FDB_NBD_MIGRATE_SNAPSHOTS") or 3)
KILLS = int(os.environ.get("FDB_NBD_MIGRATE_KILLS") or 6)


@contextlib.contextmanager
def directory():
    with tempfile.TemporaryDirectory(prefix="fdb-nbd-test-") as path:
        yield path


def other_store(path):
    return cluster_store() if CLUSTER_FILE else f"rocksdb:{path}/other"


def migrate(source, destination, *args, status=0):
    return tool(PROGRAM, "migrate", source, destination, *args, status=status)


def history(store, name):
    """What people see of a volume: all but ids and its use."""
    info = json_of("info", name, store=store)
    out = {key: info[key] for key in ("size_bytes", "block_size", "compression", "created")}
    out["snapshots"] = [{key: value for key, value in snapshot.items() if key != "id"} for snapshot in info["snapshots"]]
    return out


def digest(store, name):
    with subprocess.Popen([PROGRAM, "--store", store, "export", name, "-"], stdout=subprocess.PIPE) as export:
        value = hashlib.file_digest(export.stdout, "sha256").hexdigest()
    expect_equal(f"exit status of export of {name} from {store}", export.returncode, 0)
    return value


def digests(store, names):
    points = []
    for name in names:
        points += [f"{name}@{snapshot['name']}" for snapshot in json_of("info", name, store=store)["snapshots"]] + [name]
    return {point: digest(store, point) for point in points}


def expect_equal_stores(one, other, names):
    for name in names:
        expect_equal(f"the history of {name}", history(other, name), history(one, name))
    expect_equal("the contents", digests(other, names), digests(one, names))


def scribble(wire, size, random_numbers, count):
    """Data, zeroes and holes at places of any alignment."""
    for _ in range(count):
        length = random_numbers.choice((512, 4 * KiB, 64 * KiB, 256 * KiB))
        offset = random_numbers.randrange((size - length) // 512) * 512
        kind = random_numbers.random()
        if kind < 0.7:
            wire.write(offset, random_numbers.randbytes(length))
        elif kind < 0.85:
            wire.trim(offset, length)
        else:
            wire.zero(offset, length)


def make_source(store, names, random_numbers):
    with Server(volumes={}, store=store, tcp=False) as server:
        for i, name in enumerate(names):
            size = (4 + i) * MiB
            fdb_nbd("create", name, str(size), "--block-size", random_numbers.choice(("4K", "16K")), store=store)
            for snapshot in range(SNAPSHOTS):
                with server.session(name) as wire:
                    scribble(wire, size, random_numbers, 30)
                    wire.disconnect()
                fdb_nbd("snap", f"{name}@s{snapshot}", store=store)
                if random_numbers.random() < 0.3:
                    size = random_numbers.randrange(2 * MiB, 9 * MiB) // 512 * 512
                    fdb_nbd("resize", name, str(size), "--allow-shrink", store=store)
            with server.session(name) as wire:
                scribble(wire, size, random_numbers, 10)
                wire.disconnect()


def migrate_with_kills(source, destination, names, kills, random_numbers):
    longest = 1.0
    for _ in range(kills):
        started = time.monotonic()
        with subprocess.Popen([PROGRAM, "migrate", source, destination], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
            try:
                errors = process.communicate(timeout=random_numbers.uniform(0, longest))[1]
                # Over FoundationDB the log says that what the killed one held is taken over.
                problems = [line for line in errors.decode().splitlines() if not line.endswith("that process has ended")]
                expect_equal("exit status of an undisturbed migrate", (process.returncode, problems), (0, []))
                longest = max(0.3, time.monotonic() - started)
            except subprocess.TimeoutExpired:
                process.kill()
        # A store that was never made, or one that is in the middle.
        there = fdb_nbd("ls", "--names", store=destination, status=None).stdout.splitlines()
        for name in set(there) & set(names):
            expect_equal(f"the history of {name} under its name", history(destination, name), history(source, name))
    expect_words(migrate(source, destination).stdout, *names)
    expect_equal("volumes", sorted(fdb_nbd("ls", "--names", store=destination).stdout.splitlines()), sorted(names))


@test(limit=1200)
def volumes_are_equal_in_another_store_and_back_whenever_migrate_is_killed():
    random_numbers = random.Random(random_seed())
    with directory() as path:
        source, other, back = f"rocksdb:{path}/source", other_store(path), f"rocksdb:{path}/back"
        names = [f"volume {i}" for i in range(VOLUMES)]
        make_source(source, names, random_numbers)
        migrate_with_kills(source, other, names, KILLS - KILLS // 2, random_numbers)
        expect_equal_stores(source, other, names)
        migrate_with_kills(other, back, names, KILLS // 2, random_numbers)
        expect_equal_stores(source, back, names)
        for store in (source, other, back):
            fdb_nbd("check", store=store)


@test(limit=120)
def a_snapshot_costs_what_it_changed_in_the_copy_too():
    with directory() as path:
        source, other = f"rocksdb:{path}/source", f"rocksdb:{path}/other"
        with Server(volumes={"a": 64 * MiB}, store=source, tcp=False) as server:
            for snapshot in range(8):
                with server.session("a") as wire:
                    wire.write(snapshot * MiB, pattern(MiB if snapshot else 16 * MiB, snapshot))
                    wire.disconnect()
                fdb_nbd("snap", f"a@{snapshot}", store=source)
        migrate(source, other)
        # 16 MiB and seven times 1 MiB, once in the log and once in the tables; eight copies would be 128 MiB.
        size = int(tool("du", "-s", "--block-size=1", f"{path}/other").stdout.split()[0])
        expect("the destination", size < 60 * MiB, "under 60 MiB", f"{size / MiB:.1f} MiB")


@test(limit=120)
def a_volume_in_use_is_caught_up_first_and_completed_when_its_clients_have_stopped():
    with directory() as path:
        source, other = f"rocksdb:{path}/source", other_store(path)
        with Server(volumes={"a": 8 * MiB}, store=source, tcp=False) as server:
            wire = server.session("a")
            wire.write(0, pattern(MiB, 1))
            fdb_nbd("snap", "a@mine", store=source)
            wire.write(100, pattern(5000, 2))
            expect_words(migrate(source, other, "a", status=5).stderr, "--catch-up")
            for content in (3, 4):
                expect_words(migrate(source, other, "--catch-up", "a").stdout, "--catch-up")
                expect_equal("volumes of the destination", fdb_nbd("ls", "--names", store=other).stdout.split(), ["a.migrating"])
                wire.write(content * MiB, pattern(MiB, content))
            wire.disconnect()
            wire.close()
            eventually("no sessions", lambda: json_of("info", "a", store=source)["sessions"] == 0)
            expect_words(migrate(source, other).stdout, "a: migrated with 1 snapshot")
            expect_words(migrate(source, other).stdout, "before")
            expect_words(migrate(source, other, "--catch-up").stdout, "before")
            expect_equal("snapshots", [s["name"] for s in json_of("info", "a", store=source)["snapshots"]], ["mine"])
            expect_equal_stores(source, other, ["a"])
        fdb_nbd("check", store=other)


@test(limit=120)
def migrate_goes_on_when_snapshots_were_removed_and_added_meanwhile():
    with directory() as path:
        source, other = f"rocksdb:{path}/source", other_store(path)
        with Server(volumes={"a": 8 * MiB}, store=source, tcp=False) as server:
            wire = server.session("a")
            for snapshot in range(3):
                wire.write(snapshot * MiB, pattern(2 * MiB, snapshot))
                fdb_nbd("snap", f"a@{snapshot}", store=source)
            migrate(source, other, "--catch-up")
            fdb_nbd("rm", "a@1", store=source)
            wire.trim(0, MiB)
            fdb_nbd("snap", "a@3", store=source)
            wire.disconnect()
            wire.close()
            eventually("no sessions", lambda: json_of("info", "a", store=source)["sessions"] == 0)
            migrate(source, other)
            expect_equal("snapshots", [s["name"] for s in json_of("info", "a", store=other)["snapshots"]], ["0", "2", "3"])
            expect_equal_stores(source, other, ["a"])


class Control:
    """A connection to the control socket of a server."""

    def __init__(self, store):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(store.removeprefix("rocksdb:") + "/control.sock")
        self.file = self.socket.makefile("rb")

    def call(self, verb, **fields):
        self.socket.sendall(json.dumps({"verb": verb, **fields}).encode() + b"\n")
        answer = json.loads(self.file.readline())
        expect(f"{verb} {fields}", "result" in answer, "done", answer)
        return answer["result"]


@test(limit=120)
def a_copy_that_differs_is_told_and_does_not_get_the_name():
    with directory() as path:
        source, other = f"rocksdb:{path}/source", f"rocksdb:{path}/other"
        with Server(volumes={"a": 8 * MiB}, store=source, tcp=False) as server, Server(volumes={}, store=other, tcp=False) as damaged:
            wire = server.session("a")
            wire.write(0, pattern(MiB, 1))
            fdb_nbd("snap", "a@one", store=source)
            migrate(source, other, "--catch-up")
            wire.disconnect()
            wire.close()
            eventually("no sessions", lambda: json_of("info", "a", store=source)["sessions"] == 0)
            # The copied snapshot is replaced by another one that looks like it.
            control = Control(other)
            snapshots = control.call("info", name="a.migrating")["snapshots"]
            for snapshot in snapshots:
                control.call("rm", name=f"a.migrating@{snapshot['name']}")
            with damaged.session("a.migrating") as copy:
                copy.write(MiB // 2, b"x")
                copy.disconnect()
            for snapshot in snapshots:
                control.call("snap", names=[f"a.migrating@{snapshot['name']}"], created=snapshot["created"])
            errors = migrate(source, other, status=10).stderr
            expect_words(errors, "a@one", str(MiB // 2), "a.migrating")
            expect_equal("volumes of the destination", fdb_nbd("ls", "--names", store=other).stdout.split(), ["a.migrating"])


@test(limit=120)
def errors_of_migrate_have_their_exit_statuses():
    with directory() as path:
        source, other = f"rocksdb:{path}/source", f"rocksdb:{path}/other"
        expect_words(migrate(source, other, status=3).stderr, "source")
        fdb_nbd("create", "a", "1M", store=source)
        expect_words(migrate(source, other, "none", status=3).stderr, "none")
        fdb_nbd("create", "a", "2M", "--block-size", "8K", store=other)
        expect_words(migrate(source, other, status=4).stderr, "another volume")
        fdb_nbd("mv", "a", "a.migrating", store=other)
        expect_words(migrate(source, other, status=4).stderr, "a.migrating")
        with Server(volumes={}, store=source, tcp=False):
            expect_words(migrate(source, source, status=2).stderr, "same store")
            expect_words(migrate(source, f"control:{path}/source/control.sock", status=2).stderr, "same store")


if __name__ == "__main__":
    main()
