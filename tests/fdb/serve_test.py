#!/usr/bin/python3
"""The program on `fdb:` stores, with the fake client library of tests/fakes and without any."""

import os
import pathlib
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "cli"))

from cli_lib import *   # noqa: F403,E402
from cli_lib import MiB, Server, error_of, expect, expect_data, expect_equal, expect_words, fdb_nbd, main, pattern, test   # noqa: E402

FAKE = os.environ["FDB_NBD_TEST_FAKE_FDB"]


def use_library(path):
    os.environ["FDB_NBD_FDB_LIBRARY"] = path


@test
def without_the_library_one_line_says_what_to_install():
    use_library("/nonexistent/libfdb_c.so")
    expect_words(error_of("ls", store="fdb:", status=7), "foundationdb-clients", "/nonexistent/libfdb_c.so")


@test
def a_library_that_is_too_old_is_refused():
    use_library(FAKE)
    os.environ["FAKE_FDB_MAX_API_VERSION"] = "630"
    try:
        expect_words(error_of("ls", store="fdb:", status=7), "too old", "630")
    finally:
        del os.environ["FAKE_FDB_MAX_API_VERSION"]


@test
def a_missing_cluster_file_is_named():
    use_library(FAKE)
    expect_words(error_of("ls", store="fdb:/missing/fdb.cluster", status=7), "/missing/fdb.cluster")


@test
def options_of_the_client_are_checked():
    use_library(FAKE)
    expect_words(error_of("ls", store="fdb:?no_such_option=1", status=2), "no_such_option")
    expect_equal("with good ones", fdb_nbd("ls", "--names", store="fdb:?knob=a=1&prefix=here").stdout, "")


@test(limit=120)
def a_server_keeps_what_is_written_and_stops_in_order():
    use_library(FAKE)
    with tempfile.TemporaryDirectory(prefix="fdb-nbd-test-") as directory:
        root = pathlib.Path(directory)
        control = f"{root}/control.sock"
        data = pattern(9 * MiB + 1536, 5)
        (root / "in").write_bytes(data)
        with Server(volumes={}, store="fdb:?prefix=test", tcp=False, args=["--control", control]):
            store = f"control:{control}"
            fdb_nbd("import", f"{root}/in", "a", "--format", "raw", store=store)
            fdb_nbd("mv", "a", "b", store=store)
            fdb_nbd("export", "b", f"{root}/out", store=store)
            expect_data("what comes back", (root / "out").read_bytes()[:len(data)], data)
            fdb_nbd("check", store=store)
            fdb_nbd("rm", "b", store=store)
            expect("the list", fdb_nbd("ls", "--names", store=store).stdout == "", "empty", "something")


if __name__ == "__main__":
    main()
