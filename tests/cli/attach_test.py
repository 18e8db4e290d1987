#!/usr/bin/python3
"""attach and detach where nothing is attached; tests/vm attaches, in a guest."""

import os

from cli_lib import *   # noqa: F403
from cli_lib import Skip, main, test

STORE = "rocksdb:/nonexistent/store"
# Nobody listens there: where this host's kernel has the NBD client, it is not touched.
NOWHERE = "unix:/nonexistent/socket"


@test
def what_makes_no_sense_is_told_to_anybody():
    expect_words(error_of("attach", "disk", "/dev/sda", store=STORE, status=2), "/dev/sda", "/dev/nbd0")
    expect_words(error_of("attach", "disk", "--connect", "localhost", store=STORE, status=2), "localhost", "tcp://HOST:PORT")
    expect_words(error_of("attach", "disk", store="memory:", status=2), "--connect")
    error_of("attach", "disk", "--connections", "0", store=STORE, status=2)
    error_of("attach", "disk", "--connections", "17", store=STORE, status=2)
    error_of("attach", "disk", "--timeout", "0", store=STORE, status=2)
    error_of("attach", store=STORE, status=2)
    error_of("detach", store=STORE, status=2)


@test
def who_is_not_root_is_told_so():
    if os.geteuid() == 0:
        raise Skip("runs as root")
    for verb in (("attach", "disk", "--connect", NOWHERE), ("detach", "disk")):
        expect_words(error_of(*verb, store=STORE, status=1), "root", f"sudo fdb-nbd {verb[0]}")


@test
def what_is_not_there_is_told_to_root():
    if os.geteuid() != 0:
        raise Skip("needs root")
    expect_words(error_of("detach", "no such volume", store=STORE, status=3), "no such volume")
    expect_words(error_of("detach", "/dev/nbd1048000", store=STORE, status=3), "/dev/nbd1048000")
    expect_words(error_of("detach", "/dev/sda", store=STORE, status=2), "/dev/sda")
    if os.path.exists("/sys/module/nbd"):
        for options in ((), ("--foreground",)):
            expect_words(error_of("attach", "disk", "--connect", NOWHERE, *options, store=STORE, status=3), NOWHERE)
            expect_words(error_of("attach", "disk", *options, store=STORE, status=7), "--connect", "fdb-nbd serve")
    else:
        for options in ((), ("--foreground",)):
            expect_words(error_of("attach", "disk", "--connect", NOWHERE, *options, store=STORE, status=1), "modprobe nbd")


if __name__ == "__main__":
    main()
