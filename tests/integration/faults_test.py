#!/usr/bin/python3
"""What goes wrong around a server: a full disk, a store that another one holds, that is damaged, that cannot be opened."""

import glob
import os
import random
import shutil
import subprocess
import tempfile

from lib import *   # noqa: F403
from lib import Failure, Server, main, test

PIECE = 256 * KiB


class SmallDisk:
    """A file system of `size` bytes at `path` that only a namespace sees, so that nothing is left of it afterwards."""

    def __init__(self, size):
        requires("unshare", "nsenter", "mount")
        self.path = tempfile.mkdtemp(prefix="fdb-nbd-test-")
        flags = "-m" if os.geteuid() == 0 else "-rm"
        script = f"mount -t tmpfs -o size={size} none {self.path} && echo ready && exec sleep 3600"
        self.holder = subprocess.Popen(["unshare", flags, "/bin/sh", "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        if self.holder.stdout.readline() != b"ready\n":
            self.__exit__()
            raise Skip("no mount namespaces here")

    def inside(self, *command):
        user = [] if os.geteuid() == 0 else ["-U", "--preserve-credentials"]
        return ["nsenter", "-t", str(self.holder.pid), "-m", *user, *command]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.holder.kill()
        self.holder.wait()
        self.holder.stdout.close()
        shutil.rmtree(self.path, ignore_errors=True)


class ServerOn(Server):
    """A server inside a SmallDisk's namespace, its store on that disk."""

    def __init__(self, disk, **options):
        self.disk = disk
        super().__init__(store=f"rocksdb:{disk.path}/store", tcp=False, **options)

    def command(self):
        return self.disk.inside(*super().command())


def data_of(number):
    return pattern(PIECE, number)


def fill(wire, limit):
    """Writes distinct pieces until one fails; returns how many were acknowledged."""
    for number in range(limit):
        reply = wire.call(CMD_WRITE, number * PIECE, PIECE, 0, data_of(number))
        if reply.error:
            expect_equal("error of a WRITE on a full disk", error_name(reply.error), "ENOSPC")
            return number
    raise Failure("WRITEs of more than the disk holds", "ENOSPC in the end", "all acknowledged")


def expect_pieces(wire, count):
    for number in range(count):
        expect_data(f"piece {number}", wire.read(number * PIECE, PIECE), data_of(number))


@test(limit=180)
def full_disk_is_enospc_and_recovers_once_there_is_room():
    requires_embedded_store()
    with SmallDisk("192m") as disk:
        subprocess.run(disk.inside("fallocate", "-l", "96M", f"{disk.path}/ballast"), check=True)
        with ServerOn(disk, volumes={"disk": GiB}) as server:
            with server.session(timeout=60) as wire:
                kept = fill(wire, 1000)
                expect("pieces acknowledged before the disk was full", kept > 16, "some", kept)
                expect_pieces(wire, kept)
                for _ in range(3):
                    wire.expect((0, ENOSPC), CMD_WRITE, 512 * MiB, 4096, 0, pattern(4096, 1))
                wire.expect((0, ENOSPC), CMD_FLUSH)
                expect_pieces(wire, kept)
                subprocess.run(disk.inside("rm", f"{disk.path}/ballast"), check=True)
                eventually("WRITE once there is room", lambda: wire.call(CMD_WRITE, kept * PIECE, PIECE, 0, data_of(kept)).error == 0, within=30, every=0.2)
                wire.flush()
                expect_pieces(wire, kept + 1)
                wire.disconnect()
            server.stop()
            server.start()
            with server.session() as wire:
                expect_pieces(wire, kept + 1)
                wire.write(600 * MiB, pattern(4096, 2), FUA)


@test(limit=180)
def full_disk_loses_nothing_over_a_kill():
    requires_embedded_store()
    with SmallDisk("128m") as disk:
        subprocess.run(disk.inside("fallocate", "-l", "48M", f"{disk.path}/ballast"), check=True)
        with ServerOn(disk, volumes={"disk": GiB}) as server:
            with server.session(timeout=60) as wire:
                kept = fill(wire, 1000)
            server.kill()
            subprocess.run(disk.inside("rm", f"{disk.path}/ballast"), check=True)
            server.start()
            with server.session() as wire:
                expect_pieces(wire, kept)


def serve_once(store, status=None):
    """A server that must end by itself."""
    return tool(PROGRAM, "--store", store, "serve", "--listen", "tcp://127.0.0.1:0", "--volume", "disk=1M", status=status, timeout=30)


def expect_refusal(done, statuses, *words):
    expect("exit status", done.returncode in statuses, statuses, f"{done.returncode}\n{done.stderr}")
    for word in words:
        expect("the error", word in done.stderr, f"one that names {word}", done.stderr)
    expect_equal("standard output", done.stdout, "")


@test
def store_that_another_server_holds_is_busy():
    requires_embedded_store()
    with Server(volumes={"disk": MiB}, store="rocksdb:DIR") as server:
        path = server.store.split(":", 1)[1]
        with server.session() as wire:
            wire.write(0, pattern(4096, 1))
            expect_refusal(serve_once(server.store), (5,), path)
            expect_data("READ", wire.read(0, 4096), pattern(4096, 1))


@test
def store_in_a_place_that_cannot_be_a_directory_is_refused():
    requires_embedded_store()
    with tempfile.NamedTemporaryFile() as file:
        expect_refusal(serve_once(f"rocksdb:{file.name}/store"), (1, 2), file.name)
        expect_refusal(serve_once(f"rocksdb:{file.name}"), (1, 2), file.name)
    expect_refusal(serve_once("rocksdb:/proc/fdb-nbd-store"), (1, 2, 3), "/proc/fdb-nbd-store")


@test
def store_url_that_is_none_is_a_usage_error():
    requires_fdb_nbd()
    for url in ("", "rocks:/tmp/x", "rocksdb", "http://x", "memory:/x"):
        done = serve_once(url)
        expect_refusal(done, (1, 2))
        expect(f"the error for --store {url!r}", done.stderr, "one", "nothing")


@test
def missing_directory_is_made_for_its_owner_alone():
    requires_embedded_store()
    with Server(volumes={"disk": MiB}, store="rocksdb:DIR") as server:
        server.check_serves()
        mode = os.stat(os.path.join(server.directory, "store")).st_mode & 0o777
        expect_equal("mode of the store's directory", oct(mode & 0o077), "0o0")


@test
def missing_parent_directory_is_named():
    requires_embedded_store()
    with tempfile.TemporaryDirectory() as directory:
        expect_refusal(serve_once(f"rocksdb:{directory}/no/store"), (1, 3), f"{directory}/no")


def written_store(server):
    """Pieces in a store that was closed and opened often enough for them to be in table files; returns how many."""
    with server.session() as wire:
        for number in range(64):
            wire.write(number * PIECE, data_of(number))
        wire.flush()
    server.stop()
    server.start()
    server.stop()
    return 64


@test(limit=180)
def damaged_table_files_never_show_wrong_data():
    requires_embedded_store()
    chance = random.Random(random_seed())
    with Server(volumes={"disk": 64 * MiB}, store="rocksdb:DIR", tcp=False) as server:
        count = written_store(server)
        store, pristine = os.path.join(server.directory, "store"), os.path.join(server.directory, "pristine")
        tables = glob.glob(os.path.join(store, "**", "*.sst"), recursive=True)
        expect("table files", tables, "some", tables)
        table = max(tables, key=os.path.getsize)
        os.rename(store, pristine)
        refused = failed_reads = good_reads = 0
        for _ in range(12):
            shutil.copytree(pristine, store)
            flip_bits(table, chance.choice((1, 1, 8)), chance)
            try:
                server.start()
            except Failure:
                refused += 1
                expect("exit status of a server that refuses a damaged store", server.process.returncode > 0, "an error, no crash", server.process.returncode)
                server.forget()
            else:
                with server.session() as wire:
                    for number in range(count):
                        reply = wire.call(CMD_READ, number * PIECE, PIECE)
                        if reply.error:
                            expect_equal("error of a READ of damaged data", error_name(reply.error), "EIO")
                            failed_reads += 1
                        else:
                            expect_data(f"piece {number} from a damaged table", reply.data, data_of(number))
                            good_reads += 1
                server.kill()
            shutil.rmtree(store)
        text = f"{refused} starts refused, {failed_reads} reads failed, {good_reads} fine"
        expect("damage that was noticed", refused + failed_reads > 0, "some", text)
        os.rename(pristine, store)
        server.start()
        with server.session() as wire:
            expect_pieces(wire, count)


def flip_bits(path, count, chance):
    with open(path, "r+b") as file:
        size = os.path.getsize(path)
        for _ in range(count):
            at = chance.randrange(size)
            file.seek(at)
            byte = file.read(1)[0] ^ 1 << chance.randrange(8)
            file.seek(at)
            file.write(bytes([byte]))


@test(limit=180)
def a_damaged_value_is_eio_for_its_block_alone():
    requires_embedded_store()
    chance = random.Random(random_seed())
    with Server(volumes={"disk": 64 * MiB}, store="rocksdb:DIR", tcp=False) as server:
        count = written_store(server)
        store, pristine = os.path.join(server.directory, "store"), os.path.join(server.directory, "pristine")
        sample = data_of(3)[40_000:40_200]   # inside one block; random data is stored as it came
        holders = [p for p in glob.glob(os.path.join(store, "**", "*"), recursive=True) if os.path.isfile(p) and sample in open(p, "rb").read()]
        expect("a file that holds the data", holders, "one", sorted(os.listdir(store)))
        os.rename(store, pristine)
        for _ in range(6):
            shutil.copytree(pristine, store)
            for holder in holders:
                with open(holder, "r+b") as file:
                    file.seek(file.read().index(sample) + chance.randrange(len(sample)))
                    at = file.tell()
                    byte = file.read(1)[0] ^ 1 << chance.randrange(8)
                    file.seek(at)
                    file.write(bytes([byte]))
            server.start()
            damaged = 3 * PIECE + 40_000 // 4096 * 4096
            with server.session() as wire:
                for number in range(count):
                    if number != 3:
                        expect_data(f"piece {number}", wire.read(number * PIECE, PIECE), data_of(number))
                wire.expect(EIO, CMD_READ, damaged, 4096, what="READ of the damaged block")
                wire.expect(EIO, CMD_READ, 3 * PIECE, PIECE, what="READ of the piece around it")
                for at in range(3 * PIECE, 4 * PIECE, 4096):
                    if at != damaged:
                        expect_data(f"block at {at}", wire.read(at, 4096), data_of(3)[at - 3 * PIECE:at - 3 * PIECE + 4096])
            done = fdb_nbd("check", store=server.store, status=9)
            expect("check", "disk" in done.stdout + done.stderr and str(damaged) in done.stdout + done.stderr, f"the volume and the offset {damaged}",
                   done.stdout + done.stderr)
            with server.session() as wire:
                wire.write(damaged, bytes([7]) * 4096)
                expect_data("the block once it is written anew", wire.read(damaged, 4096), bytes([7]) * 4096)
            server.kill()
            shutil.rmtree(store)
        os.rename(pristine, store)
        server.start()


@test
def damaged_manifest_is_refused_and_not_overwritten():
    requires_embedded_store()
    with Server(volumes={"disk": 64 * MiB}, store="rocksdb:DIR", tcp=False) as server:
        count = written_store(server)
        path = server.store.split(":", 1)[1]
        (current,) = glob.glob(os.path.join(path, "**", "CURRENT"), recursive=True)
        os.rename(current, current + ".kept")
        with open(current, "w") as file:
            file.write("MANIFEST-999999\n")
        done = serve_once(server.store)
        expect("exit status", done.returncode in (1, 7, 9), "1, 7 or 9", f"{done.returncode}\n{done.stderr}")
        expect("the error", path in done.stderr, "one that names the store", done.stderr)
        os.rename(current + ".kept", current)
        server.start()
        with server.session() as wire:
            expect_pieces(wire, count)


@test
def missing_current_file_is_not_taken_for_a_new_store():
    requires_embedded_store()
    with Server(volumes={"disk": 64 * MiB}, store="rocksdb:DIR", tcp=False) as server:
        count = written_store(server)
        path = server.store.split(":", 1)[1]
        (current,) = glob.glob(os.path.join(path, "**", "CURRENT"), recursive=True)
        os.rename(current, current + ".kept")
        done = tool(PROGRAM, "--store", server.store, "ls", status=None)
        expect("exit status of ls", done.returncode not in (0, 2), "an error", f"{done.returncode}\n{done.stdout}{done.stderr}")
        os.rename(current + ".kept", current)
        server.start()
        with server.session() as wire:
            expect_pieces(wire, count)


if __name__ == "__main__":
    main()
