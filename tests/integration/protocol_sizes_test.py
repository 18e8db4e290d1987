#!/usr/bin/python3
"""Volumes of unusual sizes, very sparse ones, and requests that cover a great deal."""

import time

from lib import *   # noqa: F403
from lib import Server, main, test

HOLE = STATE_HOLE | STATE_ZERO
LARGEST = (1 << 63) - 512


def every_size():
    """One server with volumes at the edges of what a size can be."""
    requires_fdb_nbd()
    return shared(volumes={"512": 512, "4096": 4096, "odd": MiB + 512, "wide": 16 * TiB, "largest": LARGEST}, store="rocksdb:DIR")


@test
def a_volume_of_one_sector_works():
    for structured in (False, True):
        with every_size().session("512", structured=structured) as wire:
            expect_equal("size", wire.size, 512)
            wire.write(0, pattern(512, 1))
            wire.write(511, b"!")
            expect_data("READ", wire.read(0, 512), pattern(512, 1)[:511] + b"!")
            wire.expect(ENOSPC, CMD_WRITE, 511, 2, 0, b"ab")
            wire.expect(EINVAL, CMD_READ, 0, 513)
            wire.zero(0, 512)
            expect_equal("READ", wire.read(0, 512), bytes(512))


@test
def a_size_that_is_no_multiple_of_the_block_ends_where_it_says():
    with every_size().session("odd", context=True) as wire:
        end = MiB + 512
        expect_equal("size", wire.size, end)
        wire.write(end - 700, pattern(700, 1))
        expect_data("READ", wire.read(end - 700, 700), pattern(700, 1))
        expect_equal("last extent ends at the end", sum(s for s, _ in wire.block_status(MiB - 4096, 4096 + 512)), 4096 + 512)
        wire.expect(ENOSPC, CMD_WRITE, end - 1, 2, 0, b"ab")
        wire.expect(EINVAL, CMD_BLOCK_STATUS, end - 1, 2)
        wire.trim(MiB - 4096, 4096 + 512)
        wire.zero(0, end)
        expect_equal("READ", wire.read(0, end), bytes(end))
        reply = wire.expect(0, CMD_READ, MiB, 512, DF)
        expect_equal("READ of the last sector", reply.data, bytes(512))


@test
def the_largest_volume_works_at_its_end():
    with every_size().session("largest", context=True) as wire:
        expect_equal("size", wire.size, LARGEST)
        at = LARGEST - 10_000
        wire.write(at, pattern(10_000, 1))
        expect_data("READ", wire.read(at, 10_000), pattern(10_000, 1))
        wire.expect(ENOSPC, CMD_WRITE, LARGEST - 1, 2, 0, b"ab")
        wire.expect(EINVAL, CMD_READ, LARGEST, 1)
        wire.expect(EINVAL, CMD_READ, (1 << 63) - 1, 1)
        wire.expect(EINVAL, CMD_TRIM, LARGEST - MAX_LENGTH + 1, MAX_LENGTH)
        wire.trim(LARGEST - MAX_LENGTH, MAX_LENGTH)
        expect_equal("READ after TRIM", wire.read(at, 10_000), bytes(10_000))
        extents = wire.block_status(LARGEST - 3 * GiB, 3 * GiB)
        expect_equal("extents at the end", {status for _, status in extents}, {HOLE})


@test
def a_hole_of_eight_exbibytes_is_walked_in_few_requests():
    with every_size().session("largest", context=True) as wire:
        at = 0
        for _ in range(50):
            extents = wire.block_status(at, MAX_LENGTH)
            size = sum(s for s, _ in extents)
            expect("bytes of status per request", size >= 1 << 30, "1 GiB or more of a hole", size)
            at += size


@test
def discarding_sixteen_tebibytes_takes_less_than_two_seconds():
    with every_size().session("wide") as wire:
        for n in range(64):
            wire.write(n * 256 * GiB + n * 12345, pattern(5000, n))
        pieces = [(at, min(MAX_LENGTH, 16 * TiB - at)) for at in range(0, 16 * TiB, MAX_LENGTH)]
        started = time.monotonic()
        wire.send_in_background(b"".join(wire.request(CMD_TRIM, at, size, send=False) for at, size in pieces))
        for _ in pieces:
            expect_equal("TRIM", wire.reply()[1].error, 0)
        wire.flush()
        took = time.monotonic() - started
        for n in range(64):
            expect_equal("READ after the TRIMs", wire.read(n * 256 * GiB + n * 12345, 5000), bytes(5000))
        expect("TRIM of 16 TiB", took < 2 * SLOWNESS, "under 2 s", f"{took:.2f} s")


@test
def fast_zero_of_four_gibibytes_answers_quickly():
    with every_size().session("wide") as wire:
        wire.write(5 * GiB, b"here")
        started = time.monotonic()
        reply = wire.expect((0, ENOTSUP), CMD_WRITE_ZEROES, 4 * GiB, MAX_LENGTH, FAST_ZERO)
        expect_quick("WRITE_ZEROES with FAST_ZERO", started, 1)
        expect_equal("READ", wire.read(5 * GiB, 4), b"here" if reply.error else bytes(4))


@test
def status_of_twenty_thousand_single_bytes_is_exact():
    count, block = 20_000, 4096
    with every_size().session("wide", context=True) as wire:
        base = 8 * TiB
        wire.send_in_background(b"".join(wire.request(CMD_WRITE, base + 2 * n * block, 1, payload=b"1", send=False) for n in range(count)))
        for _ in range(count):
            expect_equal("WRITE of one byte", wire.reply()[1].error, 0)
        at, end, seen = base, base + 2 * count * block, []
        started = time.monotonic()
        while at < end:
            for size, status in wire.block_status(at, end - at):
                if seen and seen[-1][1] == status:
                    seen[-1] = (seen[-1][0], status)
                else:
                    seen.append((at, status))
                at += size
        expect_quick("BLOCK_STATUS of 40,000 extents", started, 5)
        expect_equal("extents", len(seen), 2 * count)
        wrong = [e for n, e in enumerate(seen) if e != (base + n * block, HOLE if n % 2 else 0)]
        expect_equal("extents that are wrong", wrong[:3], [])


@test
def a_thousand_volumes_are_listed():
    requires_fdb_nbd()
    names = [f"volume {n:04}" for n in range(1000)]
    with Server(volumes={name: GiB for name in names}) as server, server.connect() as wire:
        wire.start()
        started = time.monotonic()
        expect_equal("LIST", sorted(wire.list_exports()), names)
        expect_quick("LIST of 1,000 volumes", started, 1)
        expect_equal("size of the last", wire.go(names[-1]).size, GiB)


if __name__ == "__main__":
    main()
