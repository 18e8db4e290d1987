"""What the tests of the tool use beside the library of tests/integration."""

import contextlib
import json
import os
import re
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "integration"))

from lib import *   # noqa: F401,F403,E402
from lib import CLUSTER_FILE, Server, cluster_store, expect, expect_equal, fdb_nbd   # noqa: E402

RFC3339 = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")


@contextlib.contextmanager
def own_store():
    """A store that nobody holds: each command opens it."""
    if CLUSTER_FILE:
        yield cluster_store()
        return
    with tempfile.TemporaryDirectory(prefix="fdb-nbd-test-") as directory:
        yield f"rocksdb:{directory}/store"


@contextlib.contextmanager
def served_store():
    """A store that a server has: the same URL leads to its control socket, or, in a cluster, works beside it."""
    with Server(volumes={}, store="rocksdb:DIR", tcp=False) as server:
        yield server.store


@contextlib.contextmanager
def memory_server():
    """A server whose store is in memory, reached by the path of its control socket."""
    with tempfile.TemporaryDirectory(prefix="fdb-nbd-test-") as directory:
        path = f"{directory}/control.sock"
        with Server(volumes={}, store="memory:", tcp=False, args=["--control", path]):
            yield f"control:{path}"


STORES = (own_store, served_store, memory_server)


def error_of(*args, store, status):
    """Runs a command that must fail with this status and one line of error; the line."""
    done = fdb_nbd(*args, store=store, status=status)
    expect(f"the error of {' '.join(args)}", done.stderr.startswith("fdb-nbd") and done.stderr.count("\n") == 1, "one line", done.stderr)
    expect_equal(f"standard output of {' '.join(args)}", done.stdout, "")
    return done.stderr


def expect_words(text, *words):
    for word in words:
        expect("the text", word in text, f"one that names {word!r}", text)


def json_of(*args, store, status=0):
    """The object that a reading verb prints with --json."""
    value = json.loads(fdb_nbd(*args, "--json", store=store, status=status).stdout)
    expect_equal(f"schema of {' '.join(args)}", value.pop("schema"), 1)
    return value


def expect_types(what, value, types):
    """Exactly these keys, each with a value of its type."""
    expect_equal(f"keys of {what}", sorted(value), sorted(types))
    for key, kind in types.items():
        expect(f"{key} of {what}", type(value[key]) is kind, kind.__name__, repr(value[key]))


VOLUME_TYPES = {"name": str, "id": int, "size_bytes": int, "used_bytes": int, "block_size": int, "compression": str, "created": str,
                "read_only": bool, "quota_bytes": int, "labels": dict, "sessions": int, "snapshots": list}
