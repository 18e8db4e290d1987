#!/usr/bin/python3
"""snap, clone, rollback, and rm of snapshots."""

from cli_lib import *   # noqa: F403
from cli_lib import STORES, error_of, expect_words, json_of, memory_server, own_store
from lib import expect_equal, fdb_nbd, main, test


@test(limit=120)
def snapshots_of_several_volumes_are_taken_listed_and_removed():
    for store_of in STORES:
        with store_of() as store:
            for name in ("a", "b"):
                fdb_nbd("create", name, "1G", store=store)
            fdb_nbd("snap", "a@one", "b@one", store=store)
            fdb_nbd("snapshot", "a@two", store=store)
            volumes = json_of("ls", store=store)["volumes"]
            expect_equal("snapshots", [[s["name"] for s in volume["snapshots"]] for volume in volumes], [["one", "two"], ["one"]])
            expect_equal("the size of a snapshot", volumes[0]["snapshots"][0]["size_bytes"], 1 << 30)
            names = fdb_nbd("ls", "--names", "--snapshots", store=store).stdout.split()
            expect_equal("names", names, ["a", "a@one", "a@two", "b", "b@one"])
            expect_equal("names of volumes", fdb_nbd("ls", "--names", store=store).stdout.split(), ["a", "b"])
            expect_words(fdb_nbd("info", "a", store=store).stdout, "one, two")
            info = json_of("info", "a@one", store=store)
            expect_equal("a snapshot", (info["name"], info["read_only"], info["used_bytes"]), ("a@one", True, 0))
            fdb_nbd("rm", "a@one", store=store)
            expect_equal("what is left", [s["name"] for s in json_of("info", "a", store=store)["snapshots"]], ["two"])


@test
def errors_of_snapshots_have_their_exit_statuses():
    with memory_server() as store:
        fdb_nbd("create", "a", "1G", store=store)
        fdb_nbd("snap", "a@one", store=store)
        expect_words(error_of("snap", "a@one", store=store, status=4), "a@one")
        expect_words(error_of("snap", "none@one", store=store, status=3), "none")
        error_of("snap", "a", store=store, status=2)
        error_of("snap", "a@x", "a@y", store=store, status=2)
        error_of("clone", "a@none", "b", store=store, status=3)
        error_of("clone", "a@one", "a", store=store, status=4)
        error_of("rollback", "a@none", store=store, status=3)
        error_of("rm", "a@none", store=store, status=3)
        expect_words(error_of("rm", "a", store=store, status=5), "one", "--snapshots")
        fdb_nbd("rm", "a", "--snapshots", store=store)
        expect_equal("volumes", json_of("ls", store=store)["volumes"], [])


@test(limit=120)
def clones_and_rollback_bring_contents_back():
    for store_of in (own_store, memory_server):
        with store_of() as store:
            fdb_nbd("create", "a", "1M", store=store)
            first, second = bytes([1]) * (1 << 20), bytes([2]) * (1 << 20)
            directory = tempfile.mkdtemp(prefix="fdb-nbd-test-")
            paths = [os.path.join(directory, name) for name in ("first", "second", "out")]
            for path, data in zip(paths, (first, second)):
                with open(path, "wb") as file:
                    file.write(data)
            fdb_nbd("rm", "a", store=store)
            fdb_nbd("import", paths[0], "a", store=store)
            fdb_nbd("snap", "a@one", store=store)
            fdb_nbd("clone", "a@one", "b", store=store)
            fdb_nbd("resize", "a", "512K", "--allow-shrink", store=store)

            def contents(name):
                fdb_nbd("export", name, paths[2], store=store)
                with open(paths[2], "rb") as file:
                    data = file.read()
                os.unlink(paths[2])
                return data

            expect_equal("the volume", contents("a"), first[:1 << 19])
            expect_equal("the snapshot", contents("a@one"), first)
            expect_equal("the clone", contents("b"), first)
            fdb_nbd("rollback", "a@one", store=store)
            expect_equal("the volume, rolled back", contents("a"), first)
            fdb_nbd("rm", "a", "--snapshots", store=store)
            expect_equal("the clone without the original", contents("b"), first)
            fdb_nbd("check", store=store)
            shutil.rmtree(directory)


def ranges_of(*args, store):
    return [(r["offset_bytes"], r["length_bytes"], r["kind"]) for r in json_of(*args, store=store)["ranges"]]


@test(limit=120)
def diff_tells_what_changed_between_two_points():
    for store_of in STORES:
        with store_of() as store, tempfile.TemporaryDirectory(prefix="fdb-nbd-test-") as directory:
            first, second = os.path.join(directory, "first"), os.path.join(directory, "second")
            with open(first, "wb") as file:
                file.write(bytes([1]) * (64 << 10))
                file.truncate(1 << 20)
            with open(second, "wb") as file:
                file.write(bytes([1]) * (32 << 10))
                file.seek(512 << 10)
                file.write(bytes([2]) * 4096)
                file.truncate(1 << 20)
            fdb_nbd("import", first, "a", store=store)
            expect_equal("where there is data", ranges_of("diff", "a", store=store), [(0, 64 << 10, "data")])
            fdb_nbd("snap", "a@one", store=store)
            expect_equal("nothing has changed", ranges_of("diff", "a@one", store=store), [])
            fdb_nbd("import", "--into", second, "a", store=store)
            fdb_nbd("snap", "a@two", store=store)
            changes = [(0, 32 << 10, "data"), (32 << 10, 32 << 10, "zero"), (512 << 10, 4096, "data")]
            for later in (["@two"], ["a@two"], []):
                expect_equal("what has changed", ranges_of("diff", "a@one", *later, store=store), changes)
            text = fdb_nbd("diff", "a@one", "@two", store=store).stdout.splitlines()
            expect_equal("the table", (text[0].split(), text[-1].split()), (["OFFSET", "LENGTH", "KIND"], [str(512 << 10), "4096", "data"]))
            whole = json_of("diff", "a@one", "@two", store=store)
            expect_equal("the rest of it", {key: value for key, value in whole.items() if key != "ranges"},
                         {"name": "a@two", "from": "one", "from_size_bytes": 1 << 20, "size_bytes": 1 << 20, "block_size": 4096})
            error_of("diff", "a@none", store=store, status=3)
            error_of("diff", "none", store=store, status=3)
            error_of("diff", "a@one", "b@two", store=store, status=2)


@test(limit=120)
def copies_and_flattened_clones_stand_alone():
    for store_of in (own_store, memory_server):
        with store_of() as store:
            fdb_nbd("create", "a", "64M", store=store)
            fdb_nbd("snap", "a@one", store=store)
            fdb_nbd("clone", "a@one", "b", store=store)
            fdb_nbd("flatten", "b", store=store)
            fdb_nbd("cp", "a", "c", store=store)
            fdb_nbd("cp", "a@one", "d", store=store)
            expect_words(error_of("cp", "a", "d", store=store, status=4), "d")
            error_of("flatten", "none", store=store, status=3)
            expect_equal("snapshots of the original", [s["name"] for s in json_of("info", "a", store=store)["snapshots"]], ["one"])
            fdb_nbd("rm", "a", "--snapshots", store=store)
            expect_equal("volumes", fdb_nbd("ls", "--names", store=store).stdout.split(), ["b", "c", "d"])
            fdb_nbd("check", store=store)


if __name__ == "__main__":
    main()
