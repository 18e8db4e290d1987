#!/usr/bin/python3
"""Clients that send and never read, that come in thousands, that stall: memory stays bounded, and others go on being served."""

import json
import os
import shutil
import socket
import tempfile
import threading
import time

from lib import *   # noqa: F403
from lib import Failure, Server, Wire, main, test

SLACK = 100 * MiB          # what a process may have beyond its configured bound
SLOWEST = 5.0              # seconds that a write and a read of a well-behaved client may take meanwhile, on a busy machine
PAYLOAD = 32 * MiB


def status(server):
    """`status --json` of the server, over its control socket."""
    return json.loads(fdb_nbd("status", "--json", store=f"control:{control_path(server)}").stdout)


def control_path(server):
    return os.path.join(server.directory, "control.sock")


def new_server(store="rocksdb:DIR", volumes=None, args=(), **options):
    requires_fdb_nbd()
    directory = options.pop("directory")
    return Server(volumes=volumes or {"disk": 64 * GiB}, store=store, directory=directory,
                  args=["--control", os.path.join(directory, "control.sock"), *args], **options)


class Watch:
    """Samples the memory of a server, and the latency of a well-behaved client, as long as the block lasts."""

    def __init__(self, server, client=True):
        self.server, self.with_client = server, client
        self.most_bytes = self.slowest = 0
        self.requests = 0
        self.error = None
        self.stopping = threading.Event()
        self.bound = status(server)["memory_bound_bytes"]

    def __enter__(self):
        self.threads = [threading.Thread(target=self.sample)]
        if self.with_client:
            self.wire = self.server.session()
            self.threads.append(threading.Thread(target=self.ask))
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, kind, *_):
        self.stopping.set()
        for thread in self.threads:
            thread.join()
        if kind is None:
            self.check()

    def sample(self):
        while not self.stopping.wait(0.02):
            try:
                self.most_bytes = max(self.most_bytes, self.server.resident_bytes())
            except (OSError, Failure) as error:
                self.error = error
                return

    def ask(self):
        """Reads and writes 4 KiB, some way away from what the others do."""
        at = 40 * GiB
        try:
            while not self.stopping.wait(0.02):
                data = os.urandom(4096)
                started = time.monotonic()
                self.wire.write(at, data)
                expect_equal("READ of what was just written", self.wire.read(at, 4096) == data, True)
                self.slowest = max(self.slowest, time.monotonic() - started)
                self.requests += 1
        except (OSError, Failure) as error:
            self.error = error

    def check(self):
        if self.error:
            raise Failure("the well-behaved client", "served", self.error)
        text = f"bound {self.bound // MiB} MiB, most resident {self.most_bytes // MiB} MiB, slowest {self.slowest:.2f} s of {self.requests}"
        print(f"      {text}")
        expect_memory("resident memory", self.most_bytes, self.bound + SLACK)
        if self.with_client:
            expect("requests of the well-behaved client", self.requests > 0, "some", text)
            expect("slowest write and read of the well-behaved client", self.slowest < SLOWEST * SLOWNESS, f"under {SLOWEST * SLOWNESS} s", text)


class Directory:
    """A temporary directory with a server in it, both gone afterwards."""

    def __init__(self, **options):
        self.options = options

    def __enter__(self):
        self.path = tempfile.mkdtemp(prefix="fdb-nbd-test-")
        try:
            self.server = new_server(directory=self.path, **self.options)
        except BaseException:
            shutil.rmtree(self.path, ignore_errors=True)
            raise
        return self.server

    def __exit__(self, kind, *rest):
        try:
            self.server.__exit__(kind, *rest)
        finally:
            shutil.rmtree(self.path, ignore_errors=True)


def for_seconds(seconds, wires, send):
    """Calls send(wire) again and again on a thread per connection, then closes them; a connection that ends is left alone."""
    def run(wire):
        while time.monotonic() < deadline:
            try:
                send(wire)
            except (OSError, Failure):
                return

    deadline = time.monotonic() + seconds
    threads = [threading.Thread(target=run, args=(w,)) for w in wires]
    for thread in threads:
        thread.start()
    time.sleep(max(deadline - time.monotonic(), 0))
    for wire in wires:
        try:
            wire.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
    for thread in threads:
        thread.join()
    for wire in wires:
        wire.close()


@test(limit=120)
def sixty_four_connections_that_write_32_mebibytes_and_read_nothing():
    with Directory() as server:
        payload = pattern(PAYLOAD, 1)
        wires = [server.session(tcp=bool(n & 1)) for n in range(64)]
        messages = [request_bytes(CMD_WRITE, n % 8 * PAYLOAD, PAYLOAD, 0, n) for n in range(64)]

        def send(wire):
            wire.send(messages[wires.index(wire)])
            wire.send(payload)

        with Watch(server):
            for_seconds(8, wires, send)
        server.check_serves()


@test(limit=120)
def sixty_four_connections_that_send_half_of_a_32_mebibyte_write():
    with Directory() as server:
        wires = [server.session(tcp=bool(n & 1)) for n in range(64)]
        half = request_bytes(CMD_WRITE, 0, PAYLOAD, 0, 1) + bytes(PAYLOAD // 2)
        with Watch(server):
            threads = [wire.send_in_background(half) for wire in wires]
            time.sleep(3)
            for wire in wires:
                wire.sock.shutdown(socket.SHUT_RDWR)
            for thread in threads:
                thread.join()
        server.check_serves()


@test(limit=120)
def clients_that_send_ten_thousand_reads_and_never_read_a_reply():
    with Directory() as server:
        with server.session() as wire:
            for n in range(4):
                wire.write(n * PAYLOAD, pattern(PAYLOAD, n))
        reads = b"".join(request_bytes(CMD_READ, n % 4 * PAYLOAD, PAYLOAD, 0, n) for n in range(10_000))
        wires = [server.session(tcp=bool(n & 1), structured=bool(n & 2)) for n in range(16)]
        with Watch(server):
            for wire in wires:
                wire.send_in_background(reads)
            time.sleep(6)
            for wire in wires:
                wire.close()
        server.check_serves()


@test(limit=120)
def clients_that_send_many_status_requests_and_never_read_a_reply():
    with Directory() as server:
        with server.session() as wire:
            for n in range(16):
                wire.write(n * MiB, b"".join(bytes([n + 1]) * 4096 + bytes(4096) for _ in range(128)))
        asks = b"".join(request_bytes(CMD_BLOCK_STATUS, 0, 64 * MiB, 0, n) for n in range(10_000))
        wires = [server.session(context=True) for _ in range(16)]
        with Watch(server):
            for wire in wires:
                wire.send_in_background(asks)
            time.sleep(4)
            for wire in wires:
                wire.close()
        server.check_serves()


@test(limit=180)
def large_requests_are_served_again_once_stalled_clients_are_cut():
    with Directory() as server:
        with server.session() as wire:
            wire.write(0, pattern(PAYLOAD, 1))
        reads = b"".join(request_bytes(CMD_READ, 0, PAYLOAD, 0, n) for n in range(100))
        stalled = [server.session(tcp=bool(n & 1)) for n in range(16)]
        for wire in stalled:
            wire.send_in_background(reads)
        time.sleep(1)
        with server.session(timeout=60) as wire:
            started = time.monotonic()
            expect_equal("length of a READ of 32 MiB", len(wire.read(0, PAYLOAD)), PAYLOAD)
            took = time.monotonic() - started
            expect("a READ of 32 MiB while 16 clients stall", took < 45 * SLOWNESS, "answered once the stalled ones are cut", f"{took:.1f} s")
        for wire in stalled:
            wire.close()


def open_sessions(server, count):
    """Up to `count` sessions in transmission; what the server turns away is left out."""
    out = []
    for n in range(count):
        wire = None
        try:
            wire = server.connect(tcp=bool(n & 1))
            wire.start()
            wire.go("disk")
            out.append(wire)
        except (OSError, Failure):
            if wire:
                wire.close()
    return out


@test(limit=180)
def five_thousand_idle_sessions():
    raise_file_limit(12_000)
    with Directory() as server:
        files = server.file_count()
        with Watch(server):
            wires = open_sessions(server, 5000)
            time.sleep(1)
            expect("sessions that were let in", len(wires) >= 1000, "at least 1,000 of 5,000", len(wires))
            for wire in wires[::97]:
                wire.read(0, 512)
            for wire in wires:
                wire.close()
        eventually("open files of the server, back to a few", lambda: server.file_count() <= files + 8, within=10)
        server.check_serves()


@test(limit=180)
def five_thousand_connections_that_say_nothing():
    raise_file_limit(12_000)
    with Directory(args=["--handshake-timeout", "5"]) as server:
        files = server.file_count()
        with Watch(server):
            wires = []
            for n in range(5000):
                try:
                    wires.append(server.connect(tcp=bool(n & 1)))
                except OSError:
                    pass   # turned away
            time.sleep(1)
            most = server.file_count()
            expect("open files of the server", most < 2000, "silent connections capped far below 5,000", most)
            eventually("open files of the server after the handshake timeout, back to a few",
                       lambda: server.file_count() <= files + 8, within=15)
            server.check_serves()
        for wire in wires:
            wire.close()


def processor_seconds(server):
    with open(f"/proc/{server.process.pid}/stat") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@test
def running_out_of_files_neither_spins_nor_stops_others():
    if SANITIZED:
        raise Skip("the sanitizer needs descriptors for its own checks, and takes their lack for a bad pointer")
    with Directory(open_files=200) as server:
        with Watch(server):
            wires = []
            for n in range(400):
                try:
                    wires.append(server.connect(tcp=bool(n & 1), timeout=1))
                except OSError:
                    pass
            time.sleep(0.5)
            before = processor_seconds(server)
            time.sleep(2)
            used = processor_seconds(server) - before
            expect("processor time in 2 s", used < 1, "less than 1 s", used)
            for wire in wires:
                wire.close()
        eventually("a new client, served", lambda: try_session(server), within=10)


def try_session(server):
    try:
        server.check_serves()
        return True
    except (OSError, Failure):
        return False


@test
def a_slow_reader_hurts_nobody_else():
    with Directory() as server:
        with server.session() as wire:
            wire.write(0, pattern(PAYLOAD, 1))
        slow = Wire((server.host, server.port), receive_buffer=4096)
        slow.start()
        slow.go("disk")
        with Watch(server):
            slow.send_in_background(b"".join(request_bytes(CMD_READ, 0, MiB, 0, n) for n in range(32)))
            for _ in range(100):
                slow.receive(1000)
                time.sleep(0.02)
        slow.close()


@test(limit=120)
def sigterm_ends_a_server_whose_clients_never_read():
    with Directory() as server:
        with server.session() as wire:
            wire.write(0, pattern(PAYLOAD, 1))
        reads = b"".join(request_bytes(CMD_READ, 0, PAYLOAD, 0, n) for n in range(100))
        wires = [server.session(tcp=bool(n & 1)) for n in range(4)]
        for wire in wires:
            wire.send_in_background(reads)
        time.sleep(1)
        server.stop(within=45)   # it waits for them, but not for ever
        for wire in wires:
            wire.close()


@test
def memory_is_given_back_when_rude_clients_leave():
    with Directory() as server:
        with server.session() as wire:
            wire.write(0, pattern(PAYLOAD, 1))
        reads = b"".join(request_bytes(CMD_READ, 0, PAYLOAD, 0, n) for n in range(100))
        for _ in range(5):
            wires = [server.session() for _ in range(8)]
            for wire in wires:
                wire.send_in_background(reads)
            time.sleep(0.3)
            for wire in wires:
                wire.close()
        with server.session(timeout=20) as wire:   # the bytes in flight are free for others at once
            for _ in range(8):
                started = time.monotonic()
                wire.read(0, PAYLOAD)
                expect_quick("a READ of 32 MiB", started, 10)


if __name__ == "__main__":
    main()
