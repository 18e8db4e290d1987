#!/usr/bin/python3
"""The commands as they should be used: what each does, in simple and structured replies, at any alignment."""

import time

from lib import *   # noqa: F403
from lib import main, test


def server():
    return shared(volumes={"disk": 64 * GiB})


def sessions(**options):
    """A session with simple replies, then one with structured replies."""
    for structured in (False, True):
        with server().session(structured=structured, **options) as wire:
            yield wire


@test
def unwritten_space_reads_as_zeroes():
    for wire in sessions():
        at = server().fresh(MiB)
        expect_equal("READ", wire.read(at, MiB), bytes(MiB))
        expect_equal("READ of the last byte", wire.read(wire.size - 1, 1), b"\0")


@test
def written_data_reads_back_on_every_connection():
    for wire in sessions():
        at, data = server().fresh(MiB), pattern(MiB, 1)
        wire.write(at, data)
        expect_data("READ", wire.read(at, MiB), data)
        for structured in (False, True):
            with server().session(structured=structured) as other:
                expect_data("READ on another connection", other.read(at, MiB), data)


@test
def any_alignment_down_to_one_byte_works():
    for wire in sessions():
        at = server().fresh(MiB)
        model = bytearray(128 * KiB)
        pieces = [(0, 1), (4095, 2), (1, 4095), (8191, 4098), (511, 1), (65535, 1), (65536, 1), (12289, 20000), (131071, 1), (4096, 4096)]
        for number, (offset, length) in enumerate(pieces):
            data = pattern(length, number)
            wire.write(at + offset, data)
            model[offset:offset + length] = data
            expect_data(f"READ after WRITE {offset}+{length}", wire.read(at, len(model)), model)
        for offset, length in pieces:
            expect_data(f"READ {offset}+{length}", wire.read(at + offset, length), model[offset:offset + length])


@test
def unaligned_trim_and_zero_leave_their_neighbours():
    for command in (CMD_TRIM, CMD_WRITE_ZEROES):
        for wire in sessions():
            at = server().fresh(MiB)
            model = bytearray(pattern(256 * KiB, command))
            wire.write(at, model)
            for offset, length in ((1, 1), (4095, 2), (5000, 100), (8191, 4098), (65535, 65538), (200000, 1), (len(model) - 1, 1)):
                wire.expect(0, command, at + offset, length)
                got = wire.read(at, len(model))
                if command == CMD_TRIM:   # advisory, but nothing outside may change
                    model[offset:offset + length] = got[offset:offset + length]
                else:
                    model[offset:offset + length] = bytes(length)
                expect_data(f"READ after {CMD_NAMES[command]} {offset}+{length}", got, model)


@test
def trimmed_space_reads_as_zeroes():
    requires_fdb_nbd()
    for wire in sessions():
        at = server().fresh(MiB)
        wire.write(at, pattern(MiB, 2))
        wire.trim(at, MiB)
        expect_equal("READ after TRIM", wire.read(at, MiB), bytes(MiB))


@test
def write_zeroes_reads_as_zeroes_with_every_flag():
    for flags in (0, FUA, NO_HOLE, NO_HOLE | FUA):
        for wire in sessions():
            at = server().fresh(MiB)
            wire.write(at, pattern(MiB, 3))
            wire.zero(at + 4096, MiB - 4096, flags)
            expect_data(f"READ after WRITE_ZEROES flags {flags}", wire.read(at, MiB), pattern(MiB, 3)[:4096] + bytes(MiB - 4096))


@test
def fast_zero_works_or_changes_nothing():
    requires_fdb_nbd()
    for flags in (FAST_ZERO, FAST_ZERO | NO_HOLE, FAST_ZERO | FUA):
        for length in (1, 4096, 10_000, MiB):
            for wire in sessions():
                at, data = server().fresh(MiB), pattern(MiB, 4)
                wire.write(at, data)
                reply = wire.expect((0, ENOTSUP), CMD_WRITE_ZEROES, at, length, flags)
                expect_data("READ", wire.read(at, MiB), data if reply.error else bytes(length) + data[length:])


@test
def fua_is_accepted_on_every_command():
    for wire in sessions():
        at = server().fresh(MiB)
        for command, length in ((CMD_READ, 4096), (CMD_WRITE, 4096), (CMD_FLUSH, 0), (CMD_TRIM, 4096), (CMD_CACHE, 4096), (CMD_WRITE_ZEROES, 4096)):
            if command == CMD_CACHE and not wire.flags & TF_SEND_CACHE:
                continue
            wire.expect(0, command, at if command != CMD_FLUSH else 0, length, FUA, bytes(length) if command == CMD_WRITE else b"")
    with server().session(context=True) as wire:
        wire.block_status(0, 4096, FUA)


@test
def fua_write_is_there_for_another_connection_at_once():
    with server().session() as one, server().session(structured=True) as two:
        at = server().fresh(MiB)
        for number in range(50):
            one.write(at, pattern(4096, number), FUA)
            expect_data("READ", two.read(at, 4096), pattern(4096, number))


@test
def flush_covers_writes_of_other_connections():
    with server().session() as one, server().session() as two:
        at = server().fresh(MiB)
        one.write(at, pattern(4096, 7))
        two.flush()
        expect_data("READ", two.read(at, 4096), pattern(4096, 7))


@test
def flush_works_with_nothing_written():
    for wire in sessions():
        for _ in range(3):
            wire.flush()


@test
def cache_is_answered():
    for wire in sessions():
        if not wire.flags & TF_SEND_CACHE:
            raise Skip("CACHE is not offered")
        for offset, length in ((0, 4096), (1, 1), (0, 32 * MiB), (wire.size - 1, 1)):
            wire.expect(0, CMD_CACHE, offset, length)


@test
def cache_of_four_gibibytes_is_quick():
    requires_fdb_nbd()
    for wire in sessions():
        started = time.monotonic()
        wire.expect(0, CMD_CACHE, 0, MAX_LENGTH)
        expect_quick("CACHE of 4 GiB - 1", started, 1)


@test
def read_and_write_of_32_mebibytes_work():
    for wire in sessions():
        at, data = server().fresh(33 * MiB), pattern(32 * MiB, 5)
        wire.write(at + 1, data)
        expect_data("READ", wire.read(at + 1, 32 * MiB), data)
        expect_equal("the byte before", wire.read(at, 1), b"\0")
        expect_equal("the byte after", wire.read(at + 1 + 32 * MiB, 1), b"\0")


@test
def trim_and_zero_of_four_gibibytes_work_and_are_quick():
    for command in (CMD_WRITE_ZEROES,) if PEER else (CMD_TRIM, CMD_WRITE_ZEROES):
        for wire in sessions():
            at = server().fresh(5 * GiB)
            wire.write(at, b"first")
            wire.write(at + MAX_LENGTH - 5, b"last-and-after")
            started = time.monotonic()
            wire.expect(0, command, at, MAX_LENGTH)
            took = time.monotonic() - started
            expect_equal("the last bytes and what follows", wire.read(at + MAX_LENGTH - 5, 14), bytes(5) + b"and-after")
            expect_equal("the first bytes", wire.read(at, 5), bytes(5))
            expect(f"{CMD_NAMES[command]} of 4 GiB - 1", took < 2 * SLOWNESS, "an answer within 2 s", f"{took:.2f} s")


@test
def read_with_df_is_one_chunk():
    with server().session(structured=True) as wire:
        at = server().fresh(MiB)
        for piece in range(8):
            wire.write(at + piece * 16 * KiB, pattern(5000, piece))
        whole = wire.read(at, 128 * KiB)
        for length in (1, 512, 4096, 65535, 65536):
            reply = wire.expect(0, CMD_READ, at, length, DF)
            expect_data(f"READ of {length} with DF", reply.data, whole[:length])
        reply = wire.expect((0, EOVERFLOW), CMD_READ, at, MiB, DF)
        expect("READ of 1 MiB with DF", reply.error == 0 or not reply.covered, "no content with EOVERFLOW", reply.covered[:3])


@test
def read_with_df_of_a_hole_may_be_a_hole():
    with server().session(structured=True) as wire:
        at = server().fresh(MiB)
        expect_equal("READ", wire.expect(0, CMD_READ, at, 65536, DF).data, bytes(65536))


@test
def holes_are_read_as_hole_chunks():
    if PEER == "nbdkit":
        raise Skip("nbdkit has no sparse reads")
    with server().session(structured=True) as wire:
        at = server().fresh(4 * MiB)
        reply = wire.expect(0, CMD_READ, at, MiB)
        expect_equal("chunks of a READ of nothing", [c.type for c in reply.chunks if c.type != CHUNK_NONE], [CHUNK_OFFSET_HOLE])
        wire.write(at + 256 * KiB, pattern(64 * KiB, 1))
        reply = wire.expect(0, CMD_READ, at, MiB)
        kinds = [(c.type, len(c.data) - 8) for c in reply.chunks if c.type == CHUNK_OFFSET_DATA]
        expect_equal("data chunks of a READ with 64 KiB of data", sum(size for _, size in kinds), 64 * KiB)
        expect_data("READ", reply.data, bytes(256 * KiB) + pattern(64 * KiB, 1) + bytes(704 * KiB))


@test
def zero_length_requests_do_not_disconnect():
    for context in (False, True):
        with server().session(context=context) as wire:
            for offset in (0, 4096, wire.size):
                for command in (CMD_READ, CMD_WRITE, CMD_TRIM, CMD_WRITE_ZEROES, CMD_CACHE) + ((CMD_BLOCK_STATUS,) if context else ()):
                    wire.call(command, offset, 0)
            wire.read(0, 512)


@test
def zero_length_read_is_answered_without_content():
    requires_fdb_nbd()
    with server().session(structured=True) as wire:
        reply = wire.call(CMD_READ, 0, 0)
        kinds = [c.type for c in reply.chunks]
        expect("READ of nothing", kinds in ([CHUNK_NONE], [CHUNK_ERROR]), "NONE or an error", kinds)


@test
def cookies_are_echoed_whatever_they_are():
    for wire in sessions():
        for cookie in (0, 1, 0x67446698, 1 << 63, (1 << 64) - 1, 0x668E33EF << 32):
            wire.request(CMD_READ, 0, 512, cookie=cookie)
            expect_equal("cookie", wire.reply()[0], cookie)


@test
def flush_with_offset_or_length_stays_in_sync():
    for wire in sessions():
        wire.expect((0, EINVAL), CMD_FLUSH, 4096, 0)
        wire.expect((0, EINVAL), CMD_FLUSH, 0, 4096)
        wire.expect((0, EINVAL), CMD_FLUSH, MAX_LENGTH, MAX_LENGTH)
        wire.read(0, 512)


# -- BLOCK_STATUS ---------------------------------------------------------------------------------


def cover(extents, length):
    """The status of each of the first `length` bytes' runs: [(start, end, status)] joined and clipped."""
    out, at = [], 0
    for size, status in extents:
        end = min(at + size, length)
        if out and out[-1][2] == status:
            out[-1] = (out[-1][0], end, status)
        elif at < length:
            out.append((at, end, status))
        at += size
    return out


@test
def block_status_of_nothing_is_a_hole_of_zeroes():
    with server().session(context=True) as wire:
        at = server().fresh(64 * MiB)
        expect_equal("extents", cover(wire.block_status(at, 64 * MiB), 64 * MiB), [(0, 64 * MiB, STATE_HOLE | STATE_ZERO)])


@test
def block_status_tells_data_from_holes():
    requires_fdb_nbd()
    with server().session(context=True) as wire:
        at = server().fresh(MiB)
        wire.write(at + 256 * KiB, pattern(128 * KiB, 1))
        hole = STATE_HOLE | STATE_ZERO
        expect_equal("extents", cover(wire.block_status(at, MiB), MiB), [(0, 256 * KiB, hole), (256 * KiB, 384 * KiB, 0), (384 * KiB, MiB, hole)])
        wire.trim(at + 256 * KiB, 64 * KiB)
        expect_equal("extents after TRIM", cover(wire.block_status(at, MiB), MiB), [(0, 320 * KiB, hole), (320 * KiB, 384 * KiB, 0), (384 * KiB, MiB, hole)])


@test
def block_status_starts_at_any_byte():
    with server().session(context=True) as wire:
        at = server().fresh(MiB)
        wire.write(at, pattern(64 * KiB, 1))
        whole = cover(wire.block_status(at, 128 * KiB), 128 * KiB)
        for offset in (1, 511, 4097, 65535):
            part = cover(wire.block_status(at + offset, 128 * KiB - offset), 128 * KiB - offset)
            expected = [(max(a - offset, 0), b - offset, s) for a, b, s in whole if b > offset]
            expect_equal(f"extents from {offset}", part, expected)
        expect_equal("the last byte", sum(size for size, _ in wire.block_status(wire.size - 1, 1)), 1)


@test
def block_status_with_req_one_is_one_extent_within_the_request():
    with server().session(context=True) as wire:
        at = server().fresh(MiB)
        wire.write(at, pattern(8192, 1))
        for offset, length in ((0, 1), (0, 4096), (0, MiB), (4096, MiB - 4096), (8192, 100), (1, 8191)):
            wire.block_status(at + offset, length, REQ_ONE)   # the client checks one extent, at most `length`
        (size, status), = wire.block_status(at, MiB, REQ_ONE)
        expect_equal("status of data", status, 0)
        expect("length of the extent", size <= 64 * KiB, "the data, rounded up to a block", size)


@test
def block_status_of_four_gibibytes_of_hole_is_short_and_quick():
    with server().session(context=True) as wire:
        at = server().fresh(9 * GiB)
        for offset in (0, 1, 4096, 3 * GiB + 1):
            started = time.monotonic()
            extents = wire.block_status(at + offset, MAX_LENGTH)
            took = time.monotonic() - started
            expect("BLOCK_STATUS of 4 GiB - 1", took < SLOWNESS, "an answer within 1 s", f"{took:.2f} s")
            expect("extents", len(extents) <= 16 and all(status == 3 for _, status in extents), "a few holes", extents[:5])


@test
def block_status_advances_over_the_whole_volume():
    with server().session(context=True) as wire:
        at, requests = 0, 0
        while at < wire.size:
            at += sum(size for size, _ in wire.block_status(at, min(MAX_LENGTH, wire.size - at)))
            requests += 1
            expect("requests for 64 GiB", requests < 10_000, "an end", requests)
        expect_equal("the end", at, wire.size)


@test
def block_status_of_alternating_blocks_is_right():
    with server().session(context=True) as wire:
        at = server().fresh(32 * MiB)
        block, count = 64 * KiB, 256
        cookies = {wire.request(CMD_WRITE, at + 2 * i * block, block, payload=b"d" * block) for i in range(count)}
        while cookies:
            cookie, reply = wire.reply()
            expect_equal("WRITE", reply.error, 0)
            cookies.remove(cookie)
        offset, seen = at, []
        while offset < at + 2 * count * block:
            extents = wire.block_status(offset, at + 2 * count * block - offset)
            for size, status in extents:
                seen.append((offset, status))
                offset += size
        expected = [(at + i * block, 0 if i % 2 == 0 else STATE_HOLE | STATE_ZERO) for i in range(2 * count)]
        expect_equal("extents", seen[:len(expected)], expected)


@test
def block_status_after_no_hole_is_not_a_hole():
    requires_fdb_nbd()
    with server().session(context=True) as wire:
        at = server().fresh(MiB)
        wire.zero(at, MiB, NO_HOLE)
        extents = cover(wire.block_status(at, MiB), MiB)
        expect("extents after WRITE_ZEROES with NO_HOLE", all(not s & STATE_HOLE for _, _, s in extents), "no HOLE", extents[:4])


if __name__ == "__main__":
    main()
