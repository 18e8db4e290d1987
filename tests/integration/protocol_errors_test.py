#!/usr/bin/python3
"""Requests that must fail: which error each gets, that nothing is changed, and that the connection goes on."""

import time

from lib import *   # noqa: F403
from lib import Failure, main, test

PAST_END = {CMD_READ: EINVAL, CMD_WRITE: ENOSPC, CMD_TRIM: EINVAL, CMD_CACHE: EINVAL, CMD_WRITE_ZEROES: ENOSPC, CMD_BLOCK_STATUS: EINVAL}
ALLOWED_FLAGS = {CMD_READ: FUA | DF, CMD_WRITE: FUA, CMD_FLUSH: FUA, CMD_TRIM: FUA, CMD_CACHE: FUA,
                 CMD_WRITE_ZEROES: FUA | NO_HOLE | FAST_ZERO, CMD_BLOCK_STATUS: FUA | REQ_ONE}


def server():
    return shared(volumes={"disk": 64 * GiB})


def sessions():
    """Simple replies; structured replies; structured replies with base:allocation."""
    for options in ({}, {"structured": True}, {"context": True}):
        with server().session(**options) as wire:
            wire.has_context = bool(options.get("context"))
            yield wire


def payload_for(command, length):
    return b"p" * length if command == CMD_WRITE else b""


def commands(wire):
    return [c for c in PAST_END if c != CMD_BLOCK_STATUS or wire.has_context]


def expect_in_sync(wire):
    expect_equal("READ of the last sector afterwards", len(wire.read(wire.size - 512, 512)), 512)


def past_end(size):
    """(offset, length) of requests that reach beyond the end, with and without wrapping around 2^64."""
    return [(size, 1), (size, 512), (size - 512, 1024), (size - 1, 2), (size + 512, 512), (1 << 63, 512), ((1 << 64) - 512, 512),
            ((1 << 64) - 512, 1024), ((1 << 64) - 1, 1), ((1 << 64) - 1, 2)]


@test
def past_the_end_is_refused_and_stays_in_sync():
    for wire in sessions():
        for command in commands(wire):
            for offset, length in past_end(wire.size):
                wire.expect(PAST_END[command], command, offset, length, 0, payload_for(command, length))
        expect_in_sync(wire)


@test
def past_the_end_is_refused_at_32_bit_lengths():
    for wire in sessions():
        for command in commands(wire):
            if command == CMD_WRITE:
                continue
            for offset in (wire.size - 512, wire.size, (1 << 64) - MAX_LENGTH, (1 << 64) - 512):
                for length in (MAX_LENGTH, MAX_LENGTH - 511, 1 << 31):
                    allowed = (PAST_END[command], EOVERFLOW) if command == CMD_READ else PAST_END[command]
                    wire.expect(allowed, command, offset, length)
        expect_in_sync(wire)


@test
def past_the_end_changes_nothing():
    with server().session() as wire:
        data = pattern(4096, 1)
        wire.write(wire.size - 4096, data)
        wire.expect(ENOSPC, CMD_WRITE, wire.size - 4096, 8192, 0, bytes(8192))
        wire.expect(ENOSPC, CMD_WRITE_ZEROES, wire.size - 4096, 8192)
        wire.expect(EINVAL, CMD_TRIM, wire.size - 4096, 8192)
        expect_data("the last 4 KiB", wire.read(wire.size - 4096, 4096), data)


@test
def past_the_end_write_of_32_mebibytes_is_drained():
    for wire in sessions():
        wire.expect(ENOSPC, CMD_WRITE, wire.size - 512, 32 * MiB, 0, bytes(32 * MiB))
        wire.expect(ENOSPC, CMD_WRITE, (1 << 64) - 512, 32 * MiB, 0, bytes(32 * MiB))
        expect_in_sync(wire)


@test
def flags_that_do_not_apply_are_refused_and_stay_in_sync():
    for wire in sessions():
        at = server().fresh(MiB)
        for command in commands(wire) + [CMD_FLUSH]:
            for bit in range(16):
                flag = 1 << bit
                if flag & ALLOWED_FLAGS[command]:
                    continue
                length = 0 if command == CMD_FLUSH else 4096
                offset = 0 if command == CMD_FLUSH else at
                wire.expect(EINVAL, command, offset, length, flag, payload_for(command, length))
                wire.expect(EINVAL, command, offset, length, flag | FUA, payload_for(command, length))
        expect_equal("nothing was written", wire.read(at, 4096), bytes(4096))
        expect_in_sync(wire)


@test
def df_without_structured_replies_is_refused():
    with server().session() as wire:
        wire.expect(EINVAL, CMD_READ, 0, 4096, DF)
        expect_in_sync(wire)


@test
def fast_zero_without_the_promise_is_refused():
    with server().session() as wire:
        if wire.flags & TF_SEND_FAST_ZERO:
            raise Skip("FAST_ZERO is offered")
        wire.expect(EINVAL, CMD_WRITE_ZEROES, 0, 4096, FAST_ZERO)


@test
def unknown_commands_are_refused_and_have_no_payload():
    for wire in sessions():
        for command in (CMD_RESIZE, 9, 10, 255, 256, 0x1234, 0xFFFF):
            for length in (0, 512, MAX_LENGTH):
                wire.expect(EINVAL, command, 0, length)
        expect_in_sync(wire)


@test
def block_status_without_a_context_is_refused():
    for options in ({}, {"structured": True}):
        with server().session(**options) as wire:
            for length in (0, 512, MAX_LENGTH):
                wire.expect(EINVAL, CMD_BLOCK_STATUS, 0, length)
            wire.expect(EINVAL, CMD_BLOCK_STATUS, 0, 512, REQ_ONE)
            expect_in_sync(wire)


@test
def errors_of_read_are_structured_once_negotiated():
    with server().session(structured=True) as wire:
        for offset, length, flags in ((wire.size, 512, 0), (0, 512, REQ_ONE), (0, 512, 0x8000), ((1 << 64) - 1, 1, 0)):
            reply = wire.expect(EINVAL, CMD_READ, offset, length, flags)
            expect("reply to READ", reply.structured, "chunks", "a simple reply")
            expect_equal("content of a READ that failed early", reply.covered, [])


@test
def errors_carry_a_text_once_negotiated():
    requires_fdb_nbd()
    with server().session(structured=True) as wire:
        for command in (CMD_READ, CMD_WRITE, CMD_TRIM, CMD_WRITE_ZEROES, CMD_CACHE):
            reply = wire.expect(PAST_END[command], command, wire.size, 512, 0, payload_for(command, 512))
            expect(f"error text of {CMD_NAMES[command]}", reply.error_text, "a text for people", repr(reply.error_text))


@test
def read_larger_than_the_payload_limit_is_refused_and_stays_in_sync():
    requires_fdb_nbd()
    for wire in sessions():
        for length in (32 * MiB + 1, 33 * MiB, 64 * MiB, 1 << 31, MAX_LENGTH):
            wire.expect((EINVAL, EOVERFLOW), CMD_READ, 0, length)
        expect_in_sync(wire)


@test
def write_larger_than_the_payload_limit_is_drained_or_closes():
    for length in (32 * MiB + 1, 48 * MiB, 64 * MiB):
        with server().session() as wire:
            at = server().fresh(64 * MiB)
            sender = wire.send_in_background(wire.request(CMD_WRITE, at, length, payload=b"x" * length, send=False))
            try:
                reply = wire.reply()[1]
            except Failure:
                sender.join()
                continue   # closed
            sender.join()
            expect(f"WRITE of {length}", reply.error in (0, EINVAL, EOVERFLOW), "OK or EINVAL", error_name(reply.error))
            expect_in_sync(wire)
    server().check_serves()


@test
def write_of_four_gibibytes_reserves_no_memory():
    server().check_serves()
    before = server().resident_bytes()
    wires = [server().session() for _ in range(8)]
    for wire in wires:
        wire.send(wire.request(CMD_WRITE, 0, MAX_LENGTH, send=False))
    time.sleep(0.5)
    grown = server().resident_bytes() - before
    for wire in wires:
        wire.close()
    expect_memory("growth of the resident memory with 8 such writes", grown, 32 * MiB)
    server().check_serves()


@test
def write_past_the_limit_whose_data_never_comes_frees_everything():
    server().check_serves()
    files = server().file_count()
    for _ in range(20):
        wire = server().session()
        wire.send(wire.request(CMD_WRITE, 0, 32 * MiB, send=False) + bytes(MiB))
        wire.reset()
    eventually("open files, back to what they were", lambda: server().file_count() <= files)
    server().check_serves()


@test
def bad_request_magic_closes_and_nothing_after_it_runs():
    for magic in (0, 0x12560953, 0x25609514, EXTENDED_REQUEST_MAGIC, 0x67446698, 0xFFFFFFFF):
        with server().session() as wire:
            at = server().fresh(4096)
            wire.send(request_bytes(CMD_WRITE, at, 512, 0, 1, b"x" * 512, magic=magic) + request_bytes(CMD_WRITE, at, 512, 0, 2, b"y" * 512))
            wire.expect_closed(f"request magic {magic:#x}", within=2)
            with server().session() as other:
                expect_equal("what lies there", other.read(at, 512), bytes(512))


@test
def bad_request_magic_behind_good_requests_closes():
    with server().session() as wire:
        at = server().fresh(4096)
        wire.write(at, b"a" * 512)
        wire.send(request_bytes(CMD_READ, at, 512, 0, 7) + request_bytes(CMD_READ, at, 512, magic=0xDEADBEEF))
        rest = wire.drain_until_closed(5)
        expect("bytes before the end", len(rest) in (0, 16 + 512), "the reply of the good request at most", len(rest))
    server().check_serves()


def read_only_server():
    return shared("read only", volumes={"disk": 64 * MiB}, read_only=True)


@test
def read_only_refuses_changes_with_eperm_and_stays_in_sync():
    for options in ({}, {"structured": True}):
        with read_only_server().session(**options) as wire:
            for flags in (0, FUA):
                wire.expect(EPERM, CMD_WRITE, 0, 4096, flags, b"x" * 4096)
                wire.expect(EPERM, CMD_WRITE, 1, MiB, flags, b"x" * MiB)
                wire.expect(EPERM, CMD_TRIM, 0, 4096, flags)
                wire.expect(EPERM, CMD_WRITE_ZEROES, 0, 4096, flags)
            expect_equal("READ", wire.read(0, 4096), bytes(4096))
            expect_in_sync(wire)


@test
def read_only_allows_read_flush_cache_and_status():
    with read_only_server().session(context=True) as wire:
        wire.read(0, MiB)
        wire.call(CMD_FLUSH)
        if wire.flags & TF_SEND_CACHE:
            wire.expect(0, CMD_CACHE, 0, 4096)
        wire.block_status(0, MiB)


@test
def read_only_past_the_end_is_an_error():
    with read_only_server().session() as wire:
        wire.expect(EINVAL, CMD_READ, wire.size, 512)
        wire.expect((EPERM, ENOSPC), CMD_WRITE, wire.size, 512, 0, bytes(512))
        wire.expect((EPERM, EINVAL), CMD_TRIM, wire.size, 512)
        expect_in_sync(wire)


if __name__ == "__main__":
    main()
