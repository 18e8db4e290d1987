#!/usr/bin/python3
"""The trash, labels, quotas, groups, and what du tells of snapshots."""

from cli_lib import *   # noqa: F403
from cli_lib import STORES, error_of, expect_types, expect_words, json_of, memory_server, own_store
from lib import CMD_WRITE, ENOSPC, MiB, Server, eventually, expect, expect_equal, fdb_nbd, main, pattern, test, tool

TRASHED_TYPES = {"name": str, "id": int, "size_bytes": int, "used_bytes": int, "snapshots_count": int, "trashed": str, "expires": str}
SPACE_TYPES = {"used_bytes": int, "stored_bytes": int, "unique_bytes": int, "shared_bytes": int}


def names(store):
    return fdb_nbd("ls", "--names", store=store).stdout.split()


@test(limit=180)
def removed_volumes_come_back_from_the_trash_until_they_are_purged():
    for store_of in STORES:
        with store_of() as store:
            fdb_nbd("create", "a", "1M", store=store)
            fdb_nbd("snap", "a@one", store=store)
            expect_words(error_of("rm", "a", store=store, status=5), "--snapshots")
            expect_words(fdb_nbd("rm", "a", "--snapshots", store=store).stdout, "trash restore")
            expect_equal("volumes", names(store), [])
            error_of("info", "a", store=store, status=3)
            fdb_nbd("create", "a", "2M", store=store)
            fdb_nbd("rm", "a", store=store)
            trash = json_of("trash", "ls", store=store)["volumes"]
            for entry in trash:
                expect_types("an entry", entry, TRASHED_TYPES)
            expect_equal("the trash", [(e["name"], e["size_bytes"], e["snapshots_count"]) for e in trash], [("a", MiB, 1), ("a", 2 * MiB, 0)])
            expect_words(fdb_nbd("trash", "ls", store=store).stdout, *(str(entry["id"]) for entry in trash))
            expect_words(error_of("trash", "restore", "a", store=store, status=2), *(str(entry["id"]) for entry in trash))
            fdb_nbd("trash", "restore", str(trash[0]["id"]), store=store)
            expect_equal("the snapshots", [s["name"] for s in json_of("info", "a", store=store)["snapshots"]], ["one"])
            expect_words(error_of("trash", "restore", "a", store=store, status=4), "NEW")
            fdb_nbd("trash", "restore", "a", "b", store=store)
            expect_equal("volumes", names(store), ["a", "b"])
            fdb_nbd("rm", "b", store=store)
            fdb_nbd("rm", "a", "--snapshots", "--now", store=store)
            expect_equal("the trash", [e["name"] for e in json_of("trash", "ls", store=store)["volumes"]], ["b"])
            fdb_nbd("check", store=store)
            error_of("trash", "purge", store=store, status=2)
            error_of("trash", "purge", "none", store=store, status=3)
            fdb_nbd("trash", "purge", "b", store=store)
            fdb_nbd("trash", "purge", "--all", store=store)
            expect_equal("the trash", json_of("trash", "ls", store=store)["volumes"], [])


@test(limit=120)
def the_configuration_says_how_long_volumes_stay_in_the_trash():
    with tempfile.TemporaryDirectory(prefix="fdb-nbd-test-") as directory:
        path = os.path.join(directory, "fdb-nbd.toml")
        for retention_s, is_trashed in ((0, False), (1, True)):
            with open(path, "w", encoding="utf-8") as file:
                file.write(f"[trash]\nretention_s = {retention_s}\n")
            with Server(volumes={}, store="rocksdb:DIR", tcp=False, args=["--config", path, "--control", f"{directory}/control{retention_s}"]):
                store = f"control:{directory}/control{retention_s}"
                fdb_nbd("create", "a", "1M", store=store)
                expect_equal("something is said", fdb_nbd("rm", "a", store=store).stdout != "", is_trashed)
                eventually("the purge", lambda at=store: json_of("trash", "ls", store=at)["volumes"] == [])


@test(limit=120)
def labels_are_kept_and_found():
    for store_of in STORES:
        with store_of() as store:
            for name in ("a", "b"):
                fdb_nbd("create", name, "1M", store=store)
            fdb_nbd("label", "set", "a", "owner=db", "note=x=y", store=store)
            fdb_nbd("label", "set", "b", "owner=web", store=store)
            expect_equal("labels", fdb_nbd("label", "ls", "a", store=store).stdout, "note=x=y\nowner=db\n")
            expect_equal("labels", json_of("info", "a", store=store)["labels"], {"note": "x=y", "owner": "db"})
            expect_words(fdb_nbd("info", "a", store=store).stdout, "owner=db")
            for filters, found in ((["owner"], ["a", "b"]), (["owner=web"], ["b"]), (["owner=db", "note"], ["a"]), (["none"], [])):
                arguments = [word for one in filters for word in ("--label", one)]
                expect_equal(f"volumes with {filters}", fdb_nbd("ls", "--names", *arguments, store=store).stdout.split(), found)
                expect_equal(f"volumes with {filters}", [v["name"] for v in json_of("ls", *arguments, store=store)["volumes"]], found)
            fdb_nbd("label", "rm", "a", "owner", store=store)
            expect_equal("labels", json_of("label", "ls", "a", store=store)["labels"], {"note": "x=y"})
            error_of("label", "set", "a", "owner", store=store, status=2)
            error_of("label", "set", "a", "=x", store=store, status=2)
            error_of("label", "set", "none", "a=b", store=store, status=3)


@test(limit=120)
def a_quota_refuses_what_would_need_more():
    with Server(volumes={}, store="rocksdb:DIR") as server:
        store = server.held_store
        fdb_nbd("create", "a", "16M", "--quota", "1M", store=store)
        expect_equal("the quota", json_of("info", "a", store=store)["quota_bytes"], MiB)
        with server.session("a") as wire:
            wire.write(0, pattern(MiB, 1))
            wire.expect(ENOSPC, CMD_WRITE, 2 * MiB, 4096, 0, pattern(4096, 1))
            wire.write(0, pattern(MiB, 2))
            wire.disconnect()
        with tempfile.NamedTemporaryFile() as image:
            image.write(pattern(2 * MiB, 3))
            image.flush()
            expect_words(error_of("import", image.name, "a", "--into", store=store, status=8), 'volume "a"', "quota")
        fdb_nbd("quota", "set", "a", "2M", store=store)
        with server.session("a") as wire:
            wire.write(2 * MiB, pattern(MiB, 1))
            wire.disconnect()
        fdb_nbd("quota", "set", "a", "none", store=store)
        expect_equal("the quota", json_of("info", "a", store=store)["quota_bytes"], 0)
        error_of("quota", "set", "a", "0", store=store, status=2)
        error_of("quota", "set", "none", "1M", store=store, status=3)


@test(limit=120)
def groups_are_snapshotted_and_rolled_back_together():
    for store_of in STORES:
        with store_of() as store:
            for name in ("a", "b"):
                fdb_nbd("create", name, "1M", store=store)
            fdb_nbd("group", "create", "g", "a", store=store)
            fdb_nbd("group", "add", "g", "b", store=store)
            fdb_nbd("group", "snap", "g@one", store=store)
            groups = json_of("group", "ls", store=store)["groups"]
            expect_equal("groups", [(g["name"], g["members"], [s["name"] for s in g["snapshots"]]) for g in groups], [("g", ["a", "b"], ["one"])])
            expect_words(fdb_nbd("group", "ls", store=store).stdout, "g", "a, b", "one")
            for name in ("a", "b"):
                fdb_nbd("resize", name, "2M", store=store)
            fdb_nbd("group", "rollback", "g@one", store=store)
            expect_equal("sizes", [v["size_bytes"] for v in json_of("ls", store=store)["volumes"]], [MiB, MiB])
            error_of("group", "create", "g", store=store, status=4)
            error_of("group", "add", "g", "none", store=store, status=3)
            error_of("group", "snap", "none@x", store=store, status=3)
            error_of("group", "snap", "g@one", store=store, status=4)
            error_of("group", "rollback", "g@none", store=store, status=3)
            fdb_nbd("group", "remove", "g", "a", store=store)
            expect_equal("members", json_of("group", "ls", store=store)["groups"][0]["members"], ["b"])
            fdb_nbd("group", "rm", "g", store=store)
            expect_equal("groups", json_of("group", "ls", store=store)["groups"], [])
            fdb_nbd("check", store=store)


@test(limit=120)
def du_tells_what_comes_back_when_one_thing_is_removed():
    with Server(volumes={"a": 16 * MiB}, store="rocksdb:DIR") as server:
        store = server.held_store
        with server.session("a") as wire:
            wire.write(0, pattern(4 * MiB, 1))
            fdb_nbd("snap", "a@one", store=store)
            wire.write(0, pattern(MiB, 2))
            wire.disconnect()
        [usage] = json_of("du", "a", store=store)["volumes"]
        expect_types("usage", usage, {"name": str, "size_bytes": int, "snapshots": list, **SPACE_TYPES})
        expect_types("usage of a snapshot", usage["snapshots"][0], {"name": str, **SPACE_TYPES})
        [snapshot] = usage["snapshots"]
        expect_equal("used", (usage["used_bytes"], snapshot["used_bytes"]), (4 * MiB, 4 * MiB))
        for one in (usage, snapshot):
            expect("unique", MiB <= one["unique_bytes"] < MiB * 11 // 10, "what one has and the other has not", one)
            expect("shared", 3 * MiB <= one["shared_bytes"] < 33 * MiB // 10, "what both have", one)
        expect_words(fdb_nbd("du", store=store).stdout, "a@one", "UNIQUE", "SHARED")
        fdb_nbd("rm", "a@one", store=store)

        def is_merged():
            [now] = json_of("du", "a", store=store)["volumes"]
            return (now["stored_bytes"], now["unique_bytes"]) == (usage["stored_bytes"], usage["stored_bytes"])
        eventually("the volume has all to itself", is_merged)


if __name__ == "__main__":
    main()
