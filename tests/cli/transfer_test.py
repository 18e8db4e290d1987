#!/usr/bin/python3
"""import, export and bench: what goes in comes out, and what goes wrong leaves nothing half done."""

import json
import os
import signal
import subprocess
import tempfile
import time

from cli_lib import *   # noqa: F403
from cli_lib import Server, main, test


def sparse_image(path, size=48 * MiB):
    """Data at the beginning, in the middle and at the very end, an odd size, holes and stored zeroes between."""
    with open(path, "wb") as file:
        file.truncate(size)
        for offset, length in ((0, 5 * MiB), (size // 2 + 512, 70000), (size - 1000, 1000)):
            file.seek(offset)
            file.write(pattern(length, offset))
        file.seek(size // 4 * 3)
        file.write(bytes(MiB))
    return path


def padded(path):
    with open(path, "rb") as file:
        data = file.read()
    return data + bytes(-len(data) % 512)


def expect_file(path, expected):
    with open(path, "rb") as file:
        expect_data(os.path.basename(path), file.read(), expected)


def stored_bytes(path):
    return os.stat(path).st_blocks * 512


@test(limit=180)
def raw_image_goes_in_and_comes_out_on_every_kind_of_store():
    for stores in STORES:
        with tempfile.TemporaryDirectory(prefix="fdb-nbd-test-") as directory, stores() as store:
            image = sparse_image(f"{directory}/image", 48 * MiB + 100)
            fdb_nbd("import", image, "disk", store=store)
            info = json_of("info", "disk", store=store)
            expect_equal("size", info["size_bytes"], 48 * MiB + 512)
            expect("used", info["used_bytes"] < 6 * MiB, "only what is not zero", info["used_bytes"])
            fdb_nbd("export", "disk", f"{directory}/out", store=store)
            expect_file(f"{directory}/out", padded(image))
            expect("space of the exported file", stored_bytes(f"{directory}/out") < 7 * MiB, "holes kept", stored_bytes(f"{directory}/out"))
            out = subprocess.run([PROGRAM, "--store", store, "export", "disk", "-"], capture_output=True, check=True)
            expect_data("stdout", out.stdout, padded(image))
            expect_equal("names", fdb_nbd("ls", "--names", store=store).stdout, "disk\n")


@test(limit=120)
def stdin_is_imported_from_a_pipe_and_from_a_file():
    with tempfile.TemporaryDirectory(prefix="fdb-nbd-test-") as directory, served_store() as store:
        image = sparse_image(f"{directory}/image", 12 * MiB + 1)
        expected = padded(image)
        with open(image, "rb") as file:
            tool(PROGRAM, "--store", store, "import", "-", "piped", data=file.read())
            file.seek(0)
            subprocess.run([PROGRAM, "--store", store, "import", "-", "redirected"], stdin=file, check=True)
            file.seek(0)
            tool(PROGRAM, "--store", store, "import", "-", "larger", "--size", "20M", data=file.read())
        for name, size in (("piped", len(expected)), ("redirected", len(expected)), ("larger", 20 * MiB)):
            expect_equal(f"size of {name}", json_of("info", name, store=store)["size_bytes"], size)
            out = subprocess.run([PROGRAM, "--store", store, "export", name, "-"], capture_output=True, check=True)
            expect_data(name, out.stdout, expected + bytes(size - len(expected)))


@test(limit=180)
def images_of_qemu_are_converted():
    requires("qemu-img")
    with tempfile.TemporaryDirectory(prefix="fdb-nbd-test-") as directory, served_store() as store:
        image = sparse_image(f"{directory}/image", 16 * MiB)
        for kind in ("qcow2", "vmdk", "vdi", "vhdx"):
            path = f"{directory}/image.{kind}"
            tool("qemu-img", "convert", "-f", "raw", "-O", kind, image, path)
            fdb_nbd("import", path, f"from {kind}", store=store)
            fdb_nbd("export", f"from {kind}", f"{directory}/out.{kind}", store=store)
            expect_file(f"{directory}/out.{kind}", padded(image))
            fdb_nbd("import", path, f"{kind} as it is", "--format", "raw", store=store)
            expect_equal("size", json_of("info", f"{kind} as it is", store=store)["size_bytes"], -(-os.path.getsize(path) // 512) * 512)
        with open(f"{directory}/bad.qcow2", "wb") as file:
            file.write(b"QFI\xfb" + bytes(1000))
        expect_words(error_of("import", f"{directory}/bad.qcow2", "bad", store=store, status=1), "bad.qcow2")
        expect_equal("volume", fdb_nbd("info", "bad", store=store, status=3).returncode, 3)


@test
def image_that_needs_qemu_says_so_where_there_is_none():
    with tempfile.TemporaryDirectory(prefix="fdb-nbd-test-") as directory, memory_server() as store:
        path = f"{directory}/image.qcow2"
        with open(path, "wb") as file:
            file.write(b"QFI\xfb" + bytes(1000))
        done = subprocess.run([PROGRAM, "--store", store, "import", path, "a"], env={"PATH": directory}, capture_output=True, text=True, check=False)
        expect_equal("exit status", done.returncode, 1)
        expect_words(done.stderr, "qemu-img", "qemu-utils")


@test(limit=120)
def import_into_a_volume_writes_over_it():
    with tempfile.TemporaryDirectory(prefix="fdb-nbd-test-") as directory:
        with Server(volumes={"disk": 24 * MiB}, store="rocksdb:DIR") as server:
            old = pattern(24 * MiB, 99)
            with server.session() as wire:
                for offset in range(0, 24 * MiB, 4 * MiB):
                    wire.write(offset, old[offset:offset + 4 * MiB])
                wire.disconnect()
            image = sparse_image(f"{directory}/image", 22 * MiB)
            fdb_nbd("import", image, "disk", "--into", store=server.held_store)
            fdb_nbd("export", "disk", f"{directory}/out", store=server.held_store)
            expect_file(f"{directory}/out", padded(image) + old[22 * MiB:])
            too_large = sparse_image(f"{directory}/too large", 25 * MiB)
            expect_words(error_of("import", too_large, "disk", "--into", store=server.held_store, status=2), "disk", "resize")
            with open(too_large, "rb") as file:
                done = tool(PROGRAM, "--store", server.held_store, "import", "-", "disk", "--into", data=file.read(), status=8)
            expect_words(done.stderr, "larger than the volume")
            error_of("import", image, "nope", "--into", store=server.held_store, status=3)


@test
def import_refuses_what_it_cannot_do_and_leaves_nothing():
    with tempfile.TemporaryDirectory(prefix="fdb-nbd-test-") as directory, served_store() as store:
        image = sparse_image(f"{directory}/image", 22 * MiB)
        empty = f"{directory}/empty"
        open(empty, "w").close()
        fdb_nbd("create", "disk", "1M", store=store)
        expect_words(error_of("import", image, "disk", store=store, status=4), "disk", "--into")
        expect_words(error_of("import", f"{directory}/none", "a", store=store, status=3), f"{directory}/none")
        expect_words(error_of("import", directory, "a", store=store, status=1), directory)
        expect_words(error_of("import", empty, "a", store=store, status=2), "empty")
        expect_words(tool(PROGRAM, "--store", store, "import", "-", "a", data=b"", status=2).stderr, "empty")
        expect_words(error_of("import", image, "a", "--size", "1M", store=store, status=2), "--size")
        error_of("import", image, "a", "--size", "1000000000", "--into", store=store, status=2)
        error_of("import", image, "a/b", store=store, status=2)
        error_of("import", "-", "a", "--format", "qcow2", store=store, status=2)
        tool(PROGRAM, "--store", store, "import", "-", "a", "--size", "1M", data=bytes(2 * MiB) + b"x", status=8)
        expect_equal("names", fdb_nbd("ls", "--names", store=store).stdout, "disk\n")
        tool(PROGRAM, "--store", store, "import", "-", "a", "--size", "1M", "--keep-partial", data=b"x" * 2 * MiB, status=8)
        expect_equal("names", fdb_nbd("ls", "--names", store=store).stdout, "a.importing\ndisk\n")
        fdb_nbd("import", image, "a", store=store)
        expect_equal("names", fdb_nbd("ls", "--names", store=store).stdout, "a\ndisk\n")


@test
def interrupted_import_leaves_nothing_and_a_killed_one_no_volume_of_that_name():
    with served_store() as store:
        for kind, left in ((signal.SIGINT, ""), (signal.SIGKILL, "a.importing\n")):
            with subprocess.Popen([PROGRAM, "--store", store, "import", "-", "a"], stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
                process.stdin.write(pattern(4 * MiB, 1))
                process.stdin.flush()
                eventually("the import has begun", lambda: "a.importing" in fdb_nbd("ls", "--names", store=store).stdout)
                expect_words(error_of("import", "/dev/zero", "a", store=store, status=5), "a.importing")
                process.send_signal(kind)
                process.wait(20)
                expect("exit status", process.returncode != 0, "a failure", process.returncode)
            expect_equal(f"names after {kind.name}", fdb_nbd("ls", "--names", store=store).stdout, left)
        eventually("a new import", lambda: tool(PROGRAM, "--store", store, "import", "-", "a", data=b"x" * 512, status=None).returncode == 0)
        expect_equal("names", fdb_nbd("ls", "--names", store=store).stdout, "a\n")


@test(limit=120)
def export_refuses_to_write_over_anything_unless_forced():
    with tempfile.TemporaryDirectory(prefix="fdb-nbd-test-") as directory, served_store() as store:
        image = sparse_image(f"{directory}/image", 22 * MiB)
        fdb_nbd("import", image, "disk", store=store)
        precious = f"{directory}/precious"
        with open(precious, "wb") as file:
            file.write(b"precious" * 4 * MiB)
        expect_words(error_of("export", "disk", precious, store=store, status=4), precious, "--force")
        expect_file(precious, b"precious" * 4 * MiB)
        fdb_nbd("export", "disk", precious, "--force", store=store)
        expect_file(precious, padded(image))
        open(f"{directory}/empty", "w").close()
        fdb_nbd("export", "disk", f"{directory}/empty", store=store)
        expect_file(f"{directory}/empty", padded(image))
        error_of("export", "nope", f"{directory}/new", store=store, status=3)
        expect_words(error_of("export", "disk", f"{directory}/none/new", store=store, status=3), f"{directory}/none/new")
        expect_words(tool(PROGRAM, "--store", store, "export", "disk", "/dev/full", status=8).stderr, "/dev/full", "No space")
        expect_equal("files", sorted(os.listdir(directory)), ["empty", "image", "precious"])


@test
def export_to_a_closed_pipe_ends():
    with served_store() as store:
        fdb_nbd("create", "disk", "1G", store=store)
        with subprocess.Popen([PROGRAM, "--store", store, "export", "disk", "-"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            process.stdout.read(1000)
            process.stdout.close()
            expect("exit status", process.wait(20) != 0, "a failure", process.returncode)


@test
def progress_is_told_at_sigusr1():
    with served_store() as store:
        with subprocess.Popen([PROGRAM, "--store", store, "import", "-", "a"], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=False) as process:
            process.stdin.write(pattern(MiB, 1))
            process.stdin.flush()
            eventually("the import has begun", lambda: "a.importing" in fdb_nbd("ls", "--names", store=store).stdout)
            process.send_signal(signal.SIGUSR1)
            expect_words(process.stderr.readline().decode(), "Importing -: ", "/s\n")   # while it waits for more
            process.send_signal(signal.SIGUSR1)
            process.stdin.write(pattern(4 * MiB, 1))
            process.stdin.close()
            expect_equal("exit status", process.wait(20), 0)
            expect_words(process.stderr.read().decode(), "Importing -: ", "/s\n")


@test
def a_terminal_gets_a_bar_that_goes_away():
    with served_store() as store, tempfile.TemporaryDirectory(prefix="fdb-nbd-test-") as directory:
        image = sparse_image(f"{directory}/image", 64 * MiB)
        for options, is_drawn in (((), True), (("--no-progress",), False)):
            terminal, end = os.openpty()
            done = subprocess.run([PROGRAM, "--store", store, *options, "import", image, f"disk {is_drawn}"], stderr=end, stdout=subprocess.PIPE, check=True)
            os.close(end)
            drawn = b""
            while True:
                try:
                    part = os.read(terminal, 65536)
                except OSError:   # all has been read
                    break
                drawn += part
            os.close(terminal)
            expect_equal("standard output", done.stdout, b"")
            if is_drawn:
                expect_words(drawn.decode(), "Importing ", "[", "%", "/s")
                expect("the end", drawn.endswith(b"\r\x1b[K"), "an empty line", drawn[-40:])
            else:
                expect_equal("what is drawn", drawn, b"")


@test
def bench_measures_and_writes_only_when_told_to():
    with Server(volumes={"disk": 4 * MiB}, store="rocksdb:DIR") as server:
        expect_words(error_of("bench", "disk", "--load", "randwrite", store=server.held_store, status=2), "destroys", "--write")
        error_of("bench", "disk", "--load", "stroll", store=server.held_store, status=2)
        error_of("bench", "disk", "--request-size", "33M", store=server.held_store, status=2)
        error_of("bench", "disk", "--request-size", "8M", store=server.held_store, status=2)
        expect_equal("used", json_of("info", "disk", store=server.held_store)["used_bytes"], 0)
        result = json_of("bench", "disk", "--seconds", "1", "--write", "--depth", "4", store=server.held_store)
        expect_types("the result", result, {"volume": str, "request_bytes": int, "depth": int, "loads": list})
        expect_equal("loads", [load["load"] for load in result["loads"]], ["write", "randwrite", "read", "randread"])
        for load in result["loads"]:
            expect_types("a load", load, {"load": str, "requests": int, "seconds": float, "iops": float, "bytes_per_second": float, "p50_us": float,
                                          "p99_us": float})
            expect("requests", load["requests"] > 0 and load["p50_us"] <= load["p99_us"], "some", load)
            expect("IOPS", abs(load["iops"] * load["seconds"] - load["requests"]) < 1, "requests by seconds", load)
        expect("used", json_of("info", "disk", store=server.held_store)["used_bytes"] > 0, "some", 0)
        expect_words(fdb_nbd("bench", "disk", "--seconds", "1", "--load", "randread", store=server.held_store).stdout, "IOPS", "P99", "randread")


if __name__ == "__main__":
    main()
