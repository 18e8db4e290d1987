#!/usr/bin/python3
"""check --repair in a cluster: records and bitmaps are taken away with fdbcli, found by check, and mended."""

import os
import re
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "integration"))
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
sys.dont_write_bytecode = True

import fdb_cluster   # noqa: E402
from lib import *   # noqa: F403,E402
from lib import CLUSTER_FILE, PROGRAM, MiB, Skip, cluster_store, expect, expect_data, expect_equal, fdb_nbd, main, pattern, test, tool   # noqa: E402


class Store:
    """A store in the cluster whose rows can be changed."""

    def __init__(self):
        if not CLUSTER_FILE:
            raise Skip("no cluster (tests/fdb/with_cluster.py)")
        self.url = cluster_store()
        self.prefix = re.search("prefix=(.*)", self.url).group(1) + "/"

    def run(self, *args, status=0):
        return fdb_nbd(*args, store=self.url, status=status).stdout

    def change(self, *commands):
        text = "; ".join(["writemode on", *commands])
        done = tool(fdb_cluster.find_tool("fdbcli"), "-C", CLUSTER_FILE, "--exec", text, "--timeout", "20")
        expect("fdbcli", "ERROR" not in done.stdout + done.stderr, "no error", done.stdout + done.stderr)

    def clear(self, kind):
        """All rows of one type."""
        self.change(f"clearrange {self.prefix}{kind} {self.prefix}{chr(ord(kind) + 1)}")

    def set(self, key, value):
        self.change(f"set {self.prefix}{key} {value}")

    def contents(self, name):
        with subprocess.Popen([PROGRAM, "--store", self.url, "export", name, "-"], stdout=subprocess.PIPE) as export:
            data = export.stdout.read()
        expect_equal("exit status of export", export.returncode, 0)
        return data

    def expect_mended(self, *words):
        found = self.run("check", status=9)
        for word in words:
            expect("what check finds", word in found, word, found)
        mended = self.run("check", "--repair")
        expect("what repair says", "(mended)" in mended and "all is well now" in mended, "what it mended", mended)
        expect("check", "all is well" in self.run("check"), "nothing", "")


def filled(store, data):
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        store.run("import", file.name, "disk")


@test(limit=120)
def bitmaps_children_and_strays_are_mended():
    store = Store()
    data = pattern(MiB, 1)
    filled(store, data)
    store.clear("B")
    store.expect_mended("presence bitmap")
    expect_data("the volume", store.contents("disk"), data)
    store.run("snap", "disk@one")
    store.clear("C")
    store.set(r"D\x00\x00\x00\x00\x00\x00\x00\x4d\x00\x00\x00\x00\x00\x00\x00\x01", "stray")
    store.set(r"T\x00\x00\x00\x00\x00\x00\x00\x4d", "damaged")
    store.expect_mended("is not noted as a child", "which does not exist")
    expect_data("the volume", store.contents("disk"), data)
    expect_data("the snapshot", store.contents("disk@one"), data)


@test(limit=120)
def what_has_lost_its_name_is_left():
    store = Store()
    filled(store, pattern(MiB, 1))
    store.clear("V")
    first = store.run("check", status=9)
    second = store.run("check", "--repair", status=9)
    expect("repair", "(mended)" not in second, "nothing mended", second)
    expect_equal("what is wrong", second, first)


if __name__ == "__main__":
    main()
