#!/usr/bin/python3
"""Many requests at once: replies in any order, each once; ends of a session; requests that arrive in pieces or by half."""

import random
import socket
import struct
import time

from lib import *   # noqa: F403
from lib import main, test


def server():
    return shared(volumes={"disk": 64 * GiB})


def collect(wire, count):
    """`count` replies: cookie -> Reply, each without error."""
    out = {}
    for _ in range(count):
        cookie, reply = wire.reply()
        expect_equal(f"reply to {cookie}", reply.error, 0)
        out[cookie] = reply
    return out


@test
def a_thousand_reads_in_flight_are_each_answered_once():
    for structured in (False, True):
        with server().session(structured=structured) as wire:
            at = server().fresh(4 * MiB)
            data = pattern(4 * MiB, 1)
            wire.write(at, data)
            order = [(i * 7919) % 1000 for i in range(1000)]
            wire.send_in_background(b"".join(wire.request(CMD_READ, at + n * 4096, 4096, cookie=n, send=False) for n in order))
            replies = collect(wire, 1000)
            for n in order:
                expect_data(f"READ {n}", replies[n].data, data[n * 4096:n * 4096 + 4096])
            wire.expect_silence("after the last reply")


@test
def mixed_commands_in_flight_are_each_answered_once():
    for options in ({}, {"structured": True}, {"context": True}):
        with server().session(**options) as wire:
            at = server().fresh(16 * MiB)
            kinds = [CMD_READ, CMD_WRITE, CMD_FLUSH, CMD_TRIM, CMD_WRITE_ZEROES] + ([CMD_BLOCK_STATUS] if options.get("context") else [])
            out = bytearray()
            for n in range(2000):
                command = kinds[n % len(kinds)]
                length = 0 if command == CMD_FLUSH else 1 + (n * 37) % 9000
                out += wire.request(command, 0 if command == CMD_FLUSH else at + (n * 5003) % (8 * MiB), length,
                                    payload=bytes(length) if command == CMD_WRITE else b"", cookie=n, send=False)
            wire.send_in_background(bytes(out))
            expect_equal("replies", len(collect(wire, 2000)), 2000)
            wire.expect_silence("after the last reply")


@test
def one_cookie_for_all_requests_works():
    with server().session() as wire:
        at = server().fresh(MiB)
        out = b"".join(wire.request(CMD_WRITE, at + n * 512, 512, payload=b"c" * 512, cookie=42, send=False) for n in range(256))
        wire.send_in_background(out)
        for _ in range(256):
            expect_equal("cookie and error", (lambda c, r: (c, r.error))(*wire.reply()), (42, 0))
        expect_data("READ", wire.read(at, 128 * KiB), b"c" * 128 * KiB)


@test
def overlapping_writes_in_flight_leave_one_of_them_in_each_block():
    with server().session() as wire:
        at = server().fresh(MiB)
        for _ in range(10):
            wire.send_in_background(b"".join(wire.request(CMD_WRITE, at, 4096, payload=bytes([n]) * 4096, cookie=n, send=False) for n in range(64)))
            collect(wire, 64)
            got = wire.read(at, 4096)
            expect("the block", got == got[:1] * 4096 and got[0] < 64, "one write as a whole", got[:32].hex())


@test
def one_byte_at_a_time_is_understood():
    with server().session(tcp=not PEER) as wire:
        at = server().fresh(MiB)
        out = wire.request(CMD_WRITE, at, 700, payload=pattern(700, 1), send=False) + wire.request(CMD_READ, at + MiB // 2, 64, send=False)
        for byte in out:
            wire.send(bytes([byte]))
        collect(wire, 2)
        expect_data("READ", wire.read(at, 700), pattern(700, 1))


@test
def a_write_in_random_pieces_is_understood():
    chance = random.Random(1)
    with server().session(tcp=not PEER) as wire:
        at = server().fresh(8 * MiB)
        data = pattern(MiB, 2)
        out = b"".join(wire.request(CMD_WRITE, at + n * 65536, 65536, payload=data[n * 65536:n * 65536 + 65536], send=False) for n in range(16))
        position = 0
        while position < len(out):
            size = chance.choice((1, 27, 28, 29, 1000, 4096, 65535, 65536, 65565))
            wire.send(out[position:position + size])
            position += size
        collect(wire, 16)
        expect_data("READ", wire.read(at, MiB), data)


# -- the end of a session -------------------------------------------------------------------------


@test
def disc_lets_32_writes_before_it_finish_with_replies():
    for _ in range(5):
        with server().session() as wire:
            at = server().fresh(4 * MiB)
            data = pattern(2 * MiB, 3)
            out = b"".join(wire.request(CMD_WRITE, at + n * 65536, 65536, payload=data[n * 65536:n * 65536 + 65536], send=False) for n in range(32))
            wire.send_in_background(out + request_bytes(CMD_DISC))
            collect(wire, 32)
            wire.expect_closed("after the replies")
            with server().session() as other:
                expect_data("READ", other.read(at, 2 * MiB), data)


@test
def disc_closes_without_a_reply_whatever_its_fields_say():
    for fields in ({}, {"offset": 1 << 40, "length": MAX_LENGTH}, {"flags": 0xFFFF}, {"flags": FUA, "cookie": 9, "length": 512}):
        with server().session() as wire:
            wire.send(request_bytes(CMD_DISC, **fields))
            wire.expect_closed(f"DISC with {fields}", within=2)


@test
def requests_behind_disc_are_not_run():
    with server().session() as wire:
        at = server().fresh(4096)
        wire.send(request_bytes(CMD_DISC) + request_bytes(CMD_WRITE, at, 512, 0, 5, b"z" * 512))
        wire.expect_closed("DISC", within=2)
    with server().session() as other:
        expect_equal("what lies there", other.read(at, 512), bytes(512))


@test
def end_of_the_clients_stream_lets_requests_finish_with_replies():
    for tcp in (False, True):
        if tcp and PEER:
            continue
        with server().session(tcp=tcp) as wire:
            at = server().fresh(4 * MiB)
            out = b"".join(wire.request(CMD_WRITE, at + n * 65536, 65536, payload=b"s" * 65536, send=False) for n in range(32))
            wire.send_in_background(out).join()
            wire.sock.shutdown(socket.SHUT_WR)
            collect(wire, 32)
            wire.expect_closed("after the replies", within=5)
            with server().session() as other:
                expect_data("READ", other.read(at, 2 * MiB), b"s" * 2 * MiB)


@test
def half_a_write_is_not_applied():
    for rude in (False, True):
        for have in (0, 1, 4096, 65535):
            at = server().fresh(MiB)
            wire = server().session(tcp=not PEER)
            wire.send(request_bytes(CMD_WRITE, at, 65536, 0, 1) + b"h" * have)
            time.sleep(0.02)
            if rude:
                wire.reset()
            else:
                wire.close()
            with server().session() as other:
                for _ in range(3):
                    expect_equal(f"after {have} of 65536 bytes", other.read(at, 65536), bytes(65536))
                    time.sleep(0.01)


@test
def half_a_header_and_the_end_does_no_harm():
    for length in range(28):
        wire = server().session()
        wire.send(request_bytes(CMD_READ, 0, 512)[:length])
        if length & 1:
            wire.reset()
        else:
            wire.close()
    server().check_serves()


@test
def reset_with_replies_on_the_way_does_no_harm():
    for _ in range(30):
        wire = server().session(tcp=not PEER)
        wire.send(b"".join(request_bytes(CMD_READ, n * MiB, MiB, 0, n) for n in range(64)))
        wire.reset()
    server().check_serves()


# -- several connections --------------------------------------------------------------------------


@test(limit=120)
def no_write_of_a_dead_connection_lands_after_a_newer_acknowledged_one():
    chance = random.Random(random_seed())
    with server().session() as second:
        for round_number in range(60):
            at = server().fresh(MiB)
            blocks = [at + n * 4096 for n in range(64)]
            old = {b: struct.pack(">QQ", round_number, b) * 256 for b in blocks}
            first = server().session(tcp=not PEER)
            first.send(b"".join(request_bytes(CMD_WRITE, b, 4096, 0, b, old[b]) for b in blocks))
            time.sleep(chance.random() * 0.003)
            first.reset()
            for b in blocks:                # what a kernel does: send again what was not answered
                second.request(CMD_WRITE, b, 4096, payload=old[b])
            collect(second, len(blocks))
            new = {b: b"N" * 4096 for b in blocks}
            for b in blocks:
                second.request(CMD_WRITE, b, 4096, payload=new[b])
            collect(second, len(blocks))
            for _ in range(3):
                expect_data("the newer writes", second.read(at, 64 * 4096), b"N" * 64 * 4096)
                time.sleep(0.001)


@test(limit=120)
def eight_connections_on_one_block_see_whole_writes_only():
    chance = random.Random(random_seed())
    wires = [server().session(structured=bool(n & 1)) for n in range(8)]
    at = server().fresh(MiB)
    for round_number in range(40):
        sent = 0
        for n, wire in enumerate(wires):
            for turn in range(16):
                stamp = bytes([round_number % 128 + 1, n * 16 + turn]) * 2048
                if chance.random() < 0.5:
                    wire.request(CMD_WRITE, at, 4096, payload=stamp)
                else:
                    wire.request(CMD_READ, at, 4096)
                sent += 1
        for wire in wires:
            for _ in range(16):
                _, reply = wire.reply()
                expect_equal("error", reply.error, 0)
                if reply.data is not None:
                    expect("a READ among WRITEs", reply.data == reply.data[:2] * 2048, "one write as a whole", reply.data[:32].hex())
                    expect("a READ among WRITEs", reply.data[0] in (round_number % 128 + 1, round_number % 128, 0), "a write of this round or the last", reply.data[0])
    for wire in wires:
        wire.disconnect()


@test
def every_connection_has_its_own_replies():
    wires = [server().session() for _ in range(16)]
    at = server().fresh(MiB)
    for n, wire in enumerate(wires):
        wire.write(at + n * 4096, bytes([n + 1]) * 4096)
    for n, wire in enumerate(wires):
        for m in range(16):
            wire.request(CMD_READ, at + ((n + m) % 16) * 4096, 4096, cookie=m)
    for n, wire in enumerate(wires):
        for m, reply in collect(wire, 16).items():
            expect_equal("READ", reply.data, bytes([(n + m) % 16 + 1]) * 4096)
        wire.disconnect()


if __name__ == "__main__":
    main()
