#!/usr/bin/python3
"""Nothing that was acknowledged is lost when the server is killed or told to stop, and no block is torn.

Several connections write stamped sectors, partly over each other, while the server dies at a random moment. Afterwards each
sector must show a write that may be the last one there: one that was not followed by another which was sent after its
acknowledgement and acknowledged itself. Within one 4 KiB block a write shows as a whole or not at all.

FDB_NBD_CRASH_ROUNDS sets the number of rounds (20 where it is not set).
"""

import os
import random
import select
import signal
import struct
import subprocess
import time

from lib import *   # noqa: F403
from lib import Failure, Server, main, test

VOLUME_BYTES = 32 * MiB
SECTOR, BLOCK = 512, 4 * KiB
STAMPS_PER_SECTOR = SECTOR // 32
VOLUME_MARK = 0x766F6C756D652031
ZEROES = bytes(SECTOR)
CONNECTIONS, DEPTH = 4, 24
ROUNDS = int(os.environ.get("FDB_NBD_CRASH_ROUNDS") or 20)
STOP_ROUNDS = max(ROUNDS // 4, 1)


class Write:
    """A write, zero or trim that was sent. Times are positions in one sequence of all events."""

    __slots__ = ("number", "first", "count", "zero", "sent", "acknowledged")

    def __init__(self, number, first, count, zero, sent):
        self.number, self.first, self.count, self.zero, self.sent = number, first, count, zero, sent
        self.acknowledged = None

    def is_before(self, other):
        """It was answered before the other was sent, so that the other must win where that was answered, too."""
        return self.acknowledged is not None and self.acknowledged < other.sent

    def __repr__(self):
        kind = "zeroes" if self.zero else f"write {self.number}"
        return f"{kind} of sectors {self.first}+{self.count} (sent {self.sent}, answered {self.acknowledged})"


def stamped(number, sector):
    return struct.pack(">QQQQ", VOLUME_MARK, sector, number, ~number & 0xFFFFFFFFFFFFFFFF) * STAMPS_PER_SECTOR


class History:
    """What was verified last, and every write sent since."""

    def __init__(self):
        self.image = bytearray(VOLUME_BYTES)
        self.clock = 0
        self.last_number = 0
        self.by_sector = {}    # sector -> [Write]
        self.by_number = {}
        self.acknowledged = 0

    def tick(self):
        self.clock += 1
        return self.clock

    def begin(self, first, count, zero):
        self.last_number += 1
        write = Write(self.last_number, first, count, zero, self.tick())
        self.by_number[write.number] = write
        for sector in range(first, first + count):
            self.by_sector.setdefault(sector, []).append(write)
        return write

    def acknowledge(self, write):
        write.acknowledged = self.tick()
        self.acknowledged += 1

    def allowed(self, sector):
        """The writes that may be what the sector shows, and whether the old content may."""
        writes = self.by_sector[sector]
        answered = [w for w in writes if w.acknowledged is not None]
        return [w for w in writes if not any(w.is_before(other) for other in answered)], not answered

    def verify(self, got):
        """Failure where `got`, the whole volume, is not a state the history allows. Afterwards it is the new base."""
        expect_equal("size of the volume", len(got), VOLUME_BYTES)
        touched = {sector * SECTOR // BLOCK for sector in self.by_sector}
        for block in range(VOLUME_BYTES // BLOCK):
            piece = got[block * BLOCK:(block + 1) * BLOCK]
            if block in touched:
                self.verify_block(block, piece)
            elif piece != self.image[block * BLOCK:(block + 1) * BLOCK]:
                raise Failure(f"block {block}", "what it was: nothing wrote there", piece[:64].hex())
        self.image[:] = got
        self.by_sector.clear()
        self.by_number.clear()

    def verify_block(self, block, piece):
        shown = {}
        for index in range(BLOCK // SECTOR):
            sector = block * (BLOCK // SECTOR) + index
            content = bytes(piece[index * SECTOR:(index + 1) * SECTOR])
            shown[sector] = self.verify_sector(sector, content)
        for write in {w for w in shown.values() if w is not None and not w.zero}:
            for sector, other in shown.items():
                if write.first <= sector < write.first + write.count and self.is_older(sector, other, write):
                    raise Failure(f"block {block}, torn", f"{write} in every sector of the block that it covers", f"sector {sector} shows {other}")

    def is_older(self, sector, other, write):
        if other is write:
            return False
        if other is None:    # the old content: torn, unless zeroes that may have come later look the same
            return not (self.image[sector * SECTOR:(sector + 1) * SECTOR] == ZEROES
                        and any(w.zero and not w.is_before(write) for w in self.by_sector.get(sector, ())))
        if other.zero:       # which zeroes they are cannot be seen: any that may have come later will do
            return not any(w.zero and not w.is_before(write) for w in self.by_sector[sector])
        return other.is_before(write)

    def verify_sector(self, sector, content):
        """The write that the sector shows; None for the content of the last verification."""
        old = bytes(self.image[sector * SECTOR:(sector + 1) * SECTOR])
        if sector not in self.by_sector:
            expect_equal(f"sector {sector}, which nothing wrote", content[:64].hex(), old[:64].hex())
            return None
        allowed, old_is_allowed = self.allowed(sector)
        if content == ZEROES:
            for write in allowed:
                if write.zero:
                    return write
        if content == old and old_is_allowed:
            return None
        if content != ZEROES:
            mark, where, number, check = struct.unpack(">QQQQ", content[:32])
            if content != content[:32] * STAMPS_PER_SECTOR or mark != VOLUME_MARK or where != sector or check != ~number & 0xFFFFFFFFFFFFFFFF:
                raise Failure(f"sector {sector}", "one stamp of its own, sixteen times", content.hex())
            write = self.by_number.get(number)
            if write in allowed:
                return write
            got = write or f"write {number} of an earlier round"
        else:
            got = "zeroes"
        raise Failure(f"sector {sector}", f"one of {allowed}" + (" or the content before" if old_is_allowed else ""), got)


class Writer:
    """One connection that keeps DEPTH requests in flight."""

    def __init__(self, server, history, chance):
        self.wire = server.session()
        self.wire.sock.setblocking(False)
        self.history, self.chance = history, chance
        self.out, self.received, self.in_flight = bytearray(), bytearray(), {}
        self.cookie = 0
        self.open = True

    def top_up(self):
        while self.open and len(self.in_flight) < DEPTH and len(self.out) < MiB:
            self.cookie += 1
            self.add_request()

    def add_request(self):
        dice = self.chance.random()
        if dice < 0.03:
            self.in_flight[self.cookie] = None
            self.out += request_bytes(CMD_FLUSH, cookie=self.cookie)
            return
        sectors = VOLUME_BYTES // SECTOR
        count = self.chance.choice((1, 3, 8, 8, 8, 16, 64, 13))
        hot = self.chance.random() < 0.4
        first = self.chance.randrange(256 if hot else sectors - count)
        if count % 8 == 0 and self.chance.random() < 0.8:
            first -= first % 8
        zero = dice < 0.15
        write = self.history.begin(first, count, zero)
        self.in_flight[self.cookie] = write
        flags = FUA if self.chance.random() < 0.1 else 0
        if zero:
            command = CMD_TRIM if dice < 0.09 and not PEER else CMD_WRITE_ZEROES   # a peer's TRIM may leave what was there
            self.out += request_bytes(command, first * SECTOR, count * SECTOR, flags, self.cookie)
        else:
            data = b"".join(stamped(write.number, s) for s in range(first, first + count))
            self.out += request_bytes(CMD_WRITE, first * SECTOR, len(data), flags, self.cookie, data)

    def send(self):
        try:
            sent = self.wire.sock.send(self.out)
            del self.out[:sent]
        except BlockingIOError:
            pass
        except OSError:
            self.out.clear()

    def receive(self):
        try:
            data = self.wire.sock.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.open = False
            return
        self.received += data
        while len(self.received) >= 16:
            magic, error, cookie = struct.unpack(">IIQ", self.received[:16])
            del self.received[:16]
            expect_equal("magic of a reply", magic, SIMPLE_REPLY_MAGIC)
            expect("cookie of a reply", cookie in self.in_flight, "one that waits", cookie)
            expect_equal("error of a reply", error_name(error), "OK")
            write = self.in_flight.pop(cookie)
            if write:
                self.history.acknowledge(write)


def load_until(writers, moment, then):
    """Runs the writers; calls `then` at `moment`, and returns once every connection has ended."""
    done = False
    deadline = time.monotonic() + 45
    while any(w.open for w in writers):
        now = time.monotonic()
        if not done and now >= moment:
            then()
            done = True
        expect("connections of a server that ended", now < deadline, "closed", "open")
        poll = select.poll()
        for writer in writers:
            if writer.open:
                writer.top_up()
                poll.register(writer.wire.sock, select.POLLIN | (select.POLLOUT if writer.out else 0))
        by_fd = {w.wire.sock.fileno(): w for w in writers}
        for fd, events in poll.poll(5):
            if events & select.POLLOUT:
                by_fd[fd].send()
            if events & (select.POLLIN | select.POLLHUP | select.POLLERR):
                by_fd[fd].receive()
    for writer in writers:
        writer.wire.close()


def read_volume(server):
    step = 4 * MiB
    with server.session() as wire:
        for offset in range(0, VOLUME_BYTES, step):
            wire.request(CMD_READ, offset, step, cookie=offset)
        parts = {}
        for _ in range(VOLUME_BYTES // step):
            cookie, reply = wire.reply()
            expect_equal(f"READ {cookie}+{step}", error_name(reply.error), "OK")
            parts[cookie] = reply.data
        wire.disconnect()
    return b"".join(parts[offset] for offset in sorted(parts))


def start_fio(server):
    """Load from somebody else, on another volume."""
    return subprocess.Popen(["fio", "--name=load", "--ioengine=nbd", f"--uri={server.uri('load')}", "--rw=randwrite", "--bs=4k", "--iodepth=16",
                             "--size=16m", "--time_based", "--runtime=60"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                            cwd=server.directory, start_new_session=True)


def has_fio():
    try:
        requires("fio")
    except Skip:
        return False
    return True


def rounds(count, end, with_early_kill):
    """`count` rounds of load on one store; `end(server)` ends the server each time."""
    if PEER == "nbdkit":
        raise Skip("nbdkit's memory does not survive")
    seed = random_seed()
    history = History()
    server = Server(volumes={"disk": VOLUME_BYTES, **({} if PEER else {"load": 16 * MiB})}, store="rocksdb:DIR", tcp=False)
    try:
        for number in range(count):
            chance = random.Random(f"{seed}/{number}")
            server.args = ["--io-threads", str(1 + number % 2)] if not PEER else []
            fio = start_fio(server) if number % 4 == 3 and not PEER and has_fio() else None
            try:
                writers = [Writer(server, history, chance) for _ in range(CONNECTIONS)]
                load_until(writers, time.monotonic() + chance.choice((0.01, 0.05, 0.2, 0.5)) * (0.5 + chance.random()), lambda: end(server))
            finally:
                if fio:
                    os.killpg(fio.pid, signal.SIGKILL)   # its jobs are processes of their own
                    fio.wait()
            if end is stop_softly:
                server.stop()
            else:
                server.kill()
                if with_early_kill and number % 5 == 4:
                    kill_while_starting(server, chance)
            try:
                server.start()
                history.verify(read_volume(server))
            except Failure as error:
                error.args = (f"round {number} of seed {seed}: {error.args[0]}",)
                raise
        expect("writes acknowledged in all rounds", history.acknowledged > count * 10, "hundreds", history.acknowledged)
        server.stop()
    finally:
        server.kill()
        server.remove()


def kill_while_starting(server, chance):
    process = subprocess.Popen(server.command(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(chance.random() * 0.15)
    process.kill()
    process.wait()


def kill_hard(server):
    server.process.send_signal(signal.SIGKILL)


def stop_softly(server):
    server.process.send_signal(signal.SIGTERM)


@test(limit=60 + 5 * ROUNDS)
def sigkill_under_load_loses_nothing_that_was_acknowledged():
    rounds(ROUNDS, kill_hard, with_early_kill=True)


@test(limit=60 + 5 * STOP_ROUNDS)
def sigterm_under_load_loses_nothing_and_fails_no_request():
    rounds(STOP_ROUNDS, stop_softly, with_early_kill=False)


@test
def sigterm_answers_what_is_in_flight_and_exits_with_status_zero():
    requires_fdb_nbd()
    with Server(volumes={"disk": VOLUME_BYTES}, store="rocksdb:DIR") as server:
        idle, busy = server.session(), server.session(tcp=True)
        for n in range(16):
            busy.request(CMD_WRITE, n * MiB, MiB, payload=pattern(MiB, n))
        busy.reply()
        server.stop()
        answered = busy.drain_until_closed(5)
        expect("bytes after SIGTERM", len(answered) % 16 == 0, "whole replies", len(answered))
        for at in range(0, len(answered), 16):
            magic, error, _ = struct.unpack(">IIQ", answered[at:at + 16])
            expect_equal("a reply after SIGTERM", (magic, error), (SIMPLE_REPLY_MAGIC, 0))
        idle.expect_closed("an idle connection after SIGTERM")


@test
def sigterm_ends_a_server_with_clients_that_stall():
    requires_fdb_nbd()
    with Server(volumes={"disk": VOLUME_BYTES}, store="rocksdb:DIR") as server:
        handshake = server.connect()
        handshake.greeting()
        half_option = server.connect()
        half_option.start()
        half_option.send_option(OPT_GO, b"", length=100)
        half_write = server.session()
        half_write.send(request_bytes(CMD_WRITE, 0, MiB, 0, 1) + bytes(1000))
        started = time.monotonic()
        server.stop(within=10)
        expect_quick("SIGTERM with stalled clients", started, 10)


@test
def unix_socket_left_by_a_killed_server_is_replaced():
    requires_fdb_nbd()
    with Server(volumes={"disk": MiB}, store="rocksdb:DIR") as server:
        server.kill()
        expect("the socket", os.path.exists(server.socket_path), "left behind by SIGKILL", "gone")
        server.start()
        server.check_serves()


@test
def volumes_survive_a_restart_with_their_sizes():
    requires_fdb_nbd()
    with Server(volumes={"one": MiB, "two": 10 * TiB}, store="rocksdb:DIR") as server:
        with server.session("two") as wire:
            wire.write(10 * TiB - 4096, pattern(4096, 1), FUA)
        server.kill()
        server.volumes = {}
        server.start()
        with server.session("two") as wire:
            expect_equal("size", wire.size, 10 * TiB)
            expect_data("READ", wire.read(10 * TiB - 4096, 4096), pattern(4096, 1))
        with server.session("one") as wire:
            expect_equal("size", wire.size, MiB)


# -- the checker itself ---------------------------------------------------------------------------


def expect_refused(what, history, got):
    try:
        history.verify(got)
    except Failure:
        return
    raise Failure(what, "found by the checker", "not found")


@test
def checker_finds_lost_stale_and_torn_writes():
    def image(changes):
        out = bytearray(VOLUME_BYTES)
        for sector, number in changes.items():
            out[sector * SECTOR:(sector + 1) * SECTOR] = stamped(number, sector)
        return bytes(out)

    def history(*steps):
        """Steps: ('w' or 'z', first, count) sends, ('a', number) acknowledges."""
        made = History()
        for kind, first, *count in steps:
            if kind == "a":
                made.acknowledge(made.by_number[first])
            else:
                made.begin(first, count[0], kind == "z")
        return made

    both = [("w", 0, 1), ("a", 1), ("w", 0, 1)]
    history(*both).verify(image({0: 1}))
    history(*both).verify(image({0: 2}))
    history(*both, ("a", 2)).verify(image({0: 2}))
    history(("w", 0, 1), ("w", 0, 1), ("a", 2), ("a", 1)).verify(image({0: 1}))
    history(("w", 0, 8)).verify(image({}))
    history(("w", 0, 16)).verify(image({n: 1 for n in range(8)}))
    expect_refused("a lost write", history(("w", 0, 1), ("a", 1)), image({}))
    expect_refused("a stale write", history(*both, ("a", 2)), image({0: 1}))
    expect_refused("a torn block", history(("w", 0, 8)), image({0: 1}))
    expect_refused("a torn block of two writes", history(("w", 0, 8), ("a", 1), ("w", 0, 8)), image({**{n: 1 for n in range(8)}, 3: 2}))
    expect_refused("a write in the wrong place", history(("w", 0, 1)), image({9: 1}))
    expect_refused("zeroes that were not kept", history(("w", 0, 1), ("a", 1), ("z", 0, 1), ("a", 2)), image({0: 1}))
    torn_sector = bytearray(image({0: 1}))
    torn_sector[100:108] = bytes(8)
    expect_refused("a torn sector", history(("w", 0, 1)), bytes(torn_sector))


if __name__ == "__main__":
    main()
