"""Clients that write values that are never written twice, read them back, and remember what they were told: the history for registers.py."""

import os
import random
import struct
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "integration"))

import registers   # noqa: E402
from lib import *   # noqa: F403,E402
from lib import Failure   # noqa: E402
from registers import READ, WRITE, Op   # noqa: E402

BLOCK, BLOCKS = 4 * KiB, 24
VOLUME_BYTES = BLOCK * BLOCKS
DEPTH = 4
STAMP = struct.Struct(">QQQQ")
MARK = 0x6F776E6572736869


def stamped(block, value):
    return STAMP.pack(MARK, block, value, ~value & 0xFFFFFFFFFFFFFFFF) * (BLOCK // STAMP.size)


def value_of(block, data):
    """The value that a block holds; Failure where it is not one that was written there as a whole."""
    if data == bytes(BLOCK):
        return registers.INITIAL
    mark, where, value, _ = STAMP.unpack(data[:STAMP.size])
    expect("a block that is read", mark == MARK and where == block and data == stamped(block, value), f"one stamp of block {block}", data[:64].hex())
    return value


class History:
    """Every operation. Threads append; the list is looked at when they have ended."""

    def __init__(self):
        self.ops = []
        self.last_value = 0
        self.lock = threading.Lock()   # of last_value
        self.last_acknowledged = (0.0, None)   # when, and by which server
        self.wrong = None   # the first impossible reply

    def new_value(self):
        with self.lock:
            self.last_value += 1
            return self.last_value

    def begin(self, kind, block, value, server):
        op = Op(kind, block, value, server, time.monotonic())
        self.ops.append(op)
        return op

    def end(self, op, is_ok):
        op.end, op.is_ok = time.monotonic(), is_ok
        if is_ok and op.kind == WRITE:
            self.last_acknowledged = (op.end, op.server)


class Client(threading.Thread):
    """One connection to the volume "disk" of one server, made again whenever it ends, which keeps DEPTH requests in flight."""

    def __init__(self, server, number, history, seed, patience_s):
        super().__init__(daemon=True)
        self.server, self.number, self.history, self.patience_s = server, number, history, patience_s
        self.chance = random.Random(seed)
        self.stopping, self.away = threading.Event(), threading.Event()

    def run(self):
        while not self.stopping.is_set():
            if not self.away.is_set():
                try:
                    with Wire(self.server.socket_path, timeout=self.patience_s) as wire:
                        wire.start()
                        if not wire.option(OPT_GO, go_data("disk"))[-1].type & REP_ERR:
                            self.use(wire)
                except (OSError, Failure):
                    pass   # the connection is gone: what it had in flight stays without an answer
            self.stopping.wait(self.chance.random() * 0.1)

    def use(self, wire):
        while not self.stopping.is_set() and not self.away.is_set():
            in_flight = {}
            for _ in range(DEPTH):
                block = self.chance.randrange(BLOCKS)
                if self.chance.random() < 0.6:
                    value = self.history.new_value()
                    op = self.history.begin(WRITE, block, value, self.number)
                    in_flight[wire.request(CMD_WRITE, block * BLOCK, BLOCK, payload=stamped(block, value))] = op
                else:
                    op = self.history.begin(READ, block, None, self.number)
                    in_flight[wire.request(CMD_READ, block * BLOCK, BLOCK)] = op
            failed = False
            while in_flight:
                cookie, reply = wire.reply()
                op = in_flight.pop(cookie)
                if op.kind == READ and not reply.error:
                    try:
                        op.value = value_of(op.block, bytes(reply.data))
                    except Failure as error:
                        self.history.wrong = self.history.wrong or error
                        return
                self.history.end(op, not reply.error)
                failed = failed or reply.error
            if failed:
                return
