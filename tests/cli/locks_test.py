#!/usr/bin/python3
"""lock ls and lock break, and what is told of a volume that another server holds."""

import signal

from cli_lib import *   # noqa: F403
from cli_lib import CLUSTER_FILE, STORES, Server, Skip, error_of, expect_types, expect_words, json_of
from lib import CMD_WRITE, EIO, MiB, eventually, expect, expect_equal, fdb_nbd, main, test

LOCK_TYPES = {"volume": str, "holder": str, "epoch": int, "state": str}


def requires_cluster():
    if not CLUSTER_FILE:
        raise Skip("about a store that several servers share")


def locks(store):
    found = json_of("lock", "ls", store=store)["locks"]
    for one in found:
        expect_types("a lock", one, LOCK_TYPES)
    return found


def states(store):
    return [(one["volume"], one["state"]) for one in locks(store)]


def another(server):
    """One more server of the same store."""
    return Server(volumes={}, store=server.store, tcp=False, args=["--lease", "1"])


@test(limit=120)
def nobody_holds_what_nobody_has_open():
    for store_of in STORES:
        with store_of() as store:
            fdb_nbd("create", "a", "1M", store=store)
            eventually("nobody has it", lambda at=store: locks(at) == [])
            expect_words(fdb_nbd("lock", "ls", store=store).stdout, "VOLUME", "HOLDER", "STATE", "EPOCH")
            expect_equal("what is said", fdb_nbd("lock", "break", "a", store=store).stdout, "nobody held volume a\n")
            expect_words(error_of("lock", "break", "none", store=store, status=3), "none")
            error_of("lock", "break", store=store, status=2)


@test(limit=120)
def a_server_tells_what_its_clients_have_open_and_gives_it_up():
    with Server(volumes={"a": MiB, "b": MiB}, store="rocksdb:DIR") as server:
        with server.session("a") as wire:
            wire.write(0, b"a" * 4096)
            expect_equal("locks", states(server.held_store), [("a", "ours")])
            expect_words(locks(server.held_store)[0]["holder"], str(server.process.pid))
            expect_words(fdb_nbd("lock", "ls", store=server.held_store).stdout, f"pid {server.process.pid}", "ours")
            expect_words(fdb_nbd("lock", "break", "a", store=server.held_store).stdout, "volume a was held by", f"pid {server.process.pid}")
            wire.expect(EIO, CMD_WRITE, 0, 4096, 0, b"b" * 4096)
        with server.session("a") as wire:
            expect_equal("what is there", wire.read(0, 4096), b"a" * 4096)
            wire.disconnect()


@test(limit=120)
def another_server_is_named_and_its_volume_can_be_taken():
    requires_cluster()
    with Server(volumes={"a": MiB, "b": MiB}) as first, another(first) as second:
        with first.session("a") as wire:
            wire.write(0, b"a" * 4096)
            for store in (first.store, second.store):
                expect_equal("locks", states(store), [("a", "alive")])
                expect_words(locks(store)[0]["holder"], f"pid {first.process.pid}")
            for verb in (("resize", "a", "2M"), ("rm", "a"), ("quota", "set", "a", "1M"), ("export", "a", "-"), ("bench", "a"), ("import", __file__, "a", "--into")):
                expect_words(error_of(*verb, store=first.store, status=5), "a", f"pid {first.process.pid}")
            for name in (["a"], []):
                report = json_of("check", *name, store=first.store)
                expect_equal("what is checked", (report["blocks_count"], report["findings_count"]), (1, 0))
            epoch = locks(first.store)[0]["epoch"]
            expect_words(fdb_nbd("lock", "break", "a", store=first.store).stdout, "volume a was held by", f"pid {first.process.pid}")
            expect_equal("locks", locks(first.store), [])
            with second.session("a") as other:
                expect_equal("what is there", other.read(0, 4096), b"a" * 4096)
                other.write(0, b"b" * 4096)
                wire.expect(EIO, CMD_WRITE, 0, 4096, 0, b"c" * 4096)
                held, = locks(first.store)
                expect_words(held["holder"], f"pid {second.process.pid}")
                expect("the epoch", held["epoch"] > epoch, f"more than {epoch}", held["epoch"])
                expect_equal("what is there", other.read(0, 4096), b"b" * 4096)
                other.disconnect()
        eventually("nobody has it", lambda: locks(first.store) == [])


@test(limit=120)
def a_holder_that_gives_no_sign_of_life_is_silent():
    requires_cluster()
    with Server(volumes={"a": MiB}) as server:
        with server.session("a") as wire:
            wire.write(0, b"a" * 4096)
            server.process.send_signal(signal.SIGSTOP)
            try:
                eventually("the state", lambda: states(server.store) == [("a", "silent")], within=20)
            finally:
                server.process.send_signal(signal.SIGCONT)
            eventually("the state", lambda: states(server.store) == [("a", "alive")], within=20)
            wire.disconnect()


@test(limit=120)
def a_killed_holder_is_not_waited_for():
    requires_cluster()
    server = Server(volumes={"a": MiB})
    try:
        with server.session("a") as wire:
            wire.write(0, b"a" * 4096)
            server.kill()
        expect_equal("locks", states(server.store), [("a", "silent")])
        fdb_nbd("resize", "a", "2M", store=server.store)
        expect_equal("locks", locks(server.store), [])
    finally:
        server.kill()
        server.remove()


if __name__ == "__main__":
    main()
