#!/usr/bin/python3
"""Disks of older servers are imported: from the fake client library's rows, and from a real cluster where there is one."""

import contextlib
import ctypes
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import zlib

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "cli"))

from cli_lib import *   # noqa: F403,E402
from cli_lib import (Skip, Server, error_of, expect, expect_equal, expect_words, fdb_nbd, json_of, main,   # noqa: E402
                     own_store, served_store, test)
import fdb_cluster   # noqa: E402
import older_disks   # noqa: E402

FAKE = os.environ["FDB_NBD_TEST_FAKE_FDB"]
FLAGS = {"py": "--from-fdb-nbd-py", "array": "--from-spullara-nbd"}
API_VERSION = 710


class Writer:
    """Sets keys of a real cluster through FoundationDB's C interface. One for the process."""

    def __init__(self, cluster_file):
        self.library = ctypes.CDLL(fdb_cluster.find_library())
        self.library.fdb_transaction_commit.restype = ctypes.c_void_p
        self.call("fdb_select_api_version_impl", API_VERSION, API_VERSION)
        self.call("fdb_setup_network")
        self.network = threading.Thread(target=self.library.fdb_run_network)
        self.network.start()
        self.database = ctypes.c_void_p()
        self.call("fdb_create_database", str(cluster_file).encode(), ctypes.byref(self.database))

    def call(self, name, *arguments):
        expect_equal(name, getattr(self.library, name)(*arguments), 0)

    def set(self, rows):
        transaction = ctypes.c_void_p()
        self.call("fdb_database_create_transaction", self.database, ctypes.byref(transaction))
        for key, value in rows.items():
            self.library.fdb_transaction_set(transaction, key, len(key), value, len(value))
        future = ctypes.c_void_p(self.library.fdb_transaction_commit(transaction))
        self.call("fdb_future_block_until_ready", future)
        self.call("fdb_future_get_error", future)
        self.library.fdb_future_destroy(future)
        self.library.fdb_transaction_destroy(transaction)

    def close(self):
        self.library.fdb_database_destroy(self.database)
        self.call("fdb_stop_network")
        self.network.join()


@contextlib.contextmanager
def environment(**variables):
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def fake_cluster(rows):
    """The name of a cluster file, and the fake library with these rows behind it."""
    with tempfile.TemporaryDirectory(prefix="fdb-nbd-test-") as directory:
        path = pathlib.Path(directory)
        (path / "rows").write_text("".join(f"{key.hex()} {value.hex() or '-'}\n" for key, value in rows.items()))
        (path / "fdb.cluster").write_text("a:b@127.0.0.1:1\n")
        with environment(FDB_NBD_FDB_LIBRARY=FAKE, FAKE_FDB_ROWS=str(path / "rows")):
            yield str(path / "fdb.cluster")


def expect_disk(store, volume, disk, directory):
    """The volume has what the disk has, and nothing else takes space in it."""
    size = -(-disk.size // 512) * 512
    info = json_of("info", volume, store=store)
    expect_equal(f"size of {volume}", info["size_bytes"], size)
    extents = disk.extents()
    expect(f"used bytes of {volume}", info["used_bytes"] <= 8192 * (len(extents) + 1) + sum(len(e[1]) for e in extents),
           "what is not zero", info["used_bytes"])
    path = f"{directory}/exported"
    fdb_nbd("export", volume, path, "--force", store=store)
    found = []
    with open(path, "rb") as file:
        offset = 0
        while offset < size:
            try:
                offset = os.lseek(file.fileno(), offset, os.SEEK_DATA)
            except OSError:
                break
            for at in range(offset // 512 * 512, size, 512):
                piece = os.pread(file.fileno(), 512, at)
                offset = at + 512
                if any(piece):
                    found.append((at, zlib.crc32(piece)))
                elif at % (1 << 20) == 0:
                    break
    expected = [(start + at, zlib.crc32((content[at:at + 512] + bytes(512))[:512]))
                for start, content in extents for at in range(0, len(content), 512) if any(content[at:at + 512])]
    expect_equal(f"what is in {volume}", found, expected)


def import_all(cluster_file, disks, stores):
    with tempfile.TemporaryDirectory(prefix="fdb-nbd-test-") as directory, stores() as store:
        for number, disk in enumerate(disks):
            volume = f"imported {number}"
            fdb_nbd("import", FLAGS[disk.layout], cluster_file, disk.name, volume, store=store)
            expect_disk(store, volume, disk, directory)
        fdb_nbd("check", store=store)


def without_nul(disks):
    """A program's arguments cannot have NUL bytes."""
    return [disk for disk in disks if "\0" not in disk.name]


@test(limit=180)
def every_disk_is_imported_as_its_server_shows_it():
    rows, disks = older_disks.make()
    with fake_cluster(rows) as cluster_file:
        for stores in (own_store, served_store):
            import_all(cluster_file, without_nul(disks), stores)


@test(limit=180)
def every_disk_is_imported_from_a_real_cluster():
    if fdb_cluster.missing():
        raise Skip(fdb_cluster.missing())
    rows, disks = older_disks.make()
    with environment(FDB_NBD_FDB_LIBRARY=fdb_cluster.find_library()), fdb_cluster.Cluster("memory") as cluster:
        writer = Writer(cluster.cluster_file)
        try:
            writer.set(rows)
            import_all(str(cluster.cluster_file), without_nul(disks), own_store)
            # Into the cluster that they come from.
            store = f"fdb:{cluster.cluster_file}"
            fdb_nbd("import", FLAGS["py"], str(cluster.cluster_file), "example", store=store)
            with tempfile.TemporaryDirectory(prefix="fdb-nbd-test-") as directory:
                expect_disk(store, "example", disks[0], directory)
        finally:
            writer.close()


@test
def the_volume_has_the_disks_name_where_none_is_given_and_may_be_there():
    rows, disks = older_disks.make()
    example = disks[0]
    with fake_cluster(rows) as cluster_file, own_store() as store, tempfile.TemporaryDirectory() as directory:
        fdb_nbd("import", "--from-fdb-nbd-py", cluster_file, example.name, store=store)
        expect_disk(store, example.name, example, directory)
        expect_words(error_of("import", "--from-fdb-nbd-py", cluster_file, example.name, store=store, status=4), "--into")
        fdb_nbd("import", "--from-fdb-nbd-py", cluster_file, "empty", "example", "--into", store=store)
        example.expect(0, bytes(5 * 1024))
        expect_disk(store, example.name, example, directory)
        fdb_nbd("import", "larger", "--from-fdb-nbd-py", cluster_file, "empty", "--size", "1M", store=store)
        expect_equal("size", json_of("info", "larger", store=store)["size_bytes"], 1 << 20)


@test
def what_cannot_be_imported_says_why_and_leaves_nothing():
    rows, _ = older_disks.make()
    rows[older_disks.pack(b"dev", b"example", b"blocks", 65535)] = b"damaged"
    with fake_cluster(rows) as cluster_file, own_store() as store:
        for flag in FLAGS.values():
            expect_words(error_of("import", flag, cluster_file, "nothing", store=store, status=3), "nothing", "there are")
        expect_words(error_of("import", FLAGS["py"], cluster_file, "example", store=store, status=9), "example", "block 65535 ")
        expect_equal("volumes", fdb_nbd("ls", "--names", store=store).stdout, "")
        expect_words(error_of("import", FLAGS["py"], "/missing/fdb.cluster", "example", store=store, status=7), "/missing/fdb.cluster")
        for arguments in ([], ["a"], ["a", "b", FLAGS["py"], cluster_file, "example"], [FLAGS["py"], cluster_file],
                          [FLAGS["py"], cluster_file, "a", FLAGS["array"], cluster_file, "b"],
                          [FLAGS["py"], cluster_file, "example", "--format", "raw"]):
            error_of("import", *arguments, store=store, status=2)


@test
def a_server_that_runs_is_told_by_its_lease():
    rows = {}
    server = older_disks.ArrayServer(rows)
    server.create("served", 4096)
    rows[server.metadata("served") + older_disks.pack(b"lease")] = (1 << 50).to_bytes(8, "big")
    with fake_cluster(rows) as cluster_file, own_store() as store:
        expect_words(error_of("import", FLAGS["array"], cluster_file, "served", store=store, status=5), "served", "stop it")


@test
def a_disk_beyond_four_gibibytes_is_imported_with_a_warning():
    rows, _ = older_disks.make()
    with fake_cluster(rows) as cluster_file, own_store() as store:
        expect_words(fdb_nbd("import", FLAGS["array"], cluster_file, "big", store=store).stderr, "big", "4 GiB")
        expect_equal("warnings", fdb_nbd("import", FLAGS["array"], cluster_file, "volume", store=store).stderr, "")


@test
def the_golden_rows_are_those_of_the_models():
    golden = pathlib.Path(__file__).parent.parent / "golden" / "older_disks_v1.txt"
    written = subprocess.run([sys.executable, older_disks.__file__], capture_output=True, text=True, check=True).stdout
    # zlib's bytes are its own affair.
    expected = [line for line in golden.read_text().splitlines() if not line.startswith("row")]
    expect_equal("disks", [line for line in written.splitlines() if not line.startswith("row")], expected)


if __name__ == "__main__":
    main()
