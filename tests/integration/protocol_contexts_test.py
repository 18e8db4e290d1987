#!/usr/bin/python3
"""Meta contexts: LIST_META_CONTEXT, SET_META_CONTEXT, and what they leave for BLOCK_STATUS."""

import struct
import time

from lib import *   # noqa: F403
from lib import main, test

ALLOCATION = "base:allocation"


def server():
    return shared(volumes={"disk": 64 * GiB, **({} if PEER else {"other": MiB})})


def haggle(structured=True):
    wire = server().connect()
    wire.start()
    if structured:
        wire.structured_replies()
    return wire


def listed(wire, *queries):
    return wire.contexts(OPT_LIST_META_CONTEXT, "disk", queries, f"LIST_META_CONTEXT {queries}")


def selected(wire, *queries, name="disk"):
    return list(wire.contexts(OPT_SET_META_CONTEXT, name, queries, f"SET_META_CONTEXT {queries}"))


@test
def list_without_a_query_names_all():
    with haggle() as wire:
        expect("contexts", ALLOCATION in listed(wire), ALLOCATION, listed(wire))


@test
def list_with_the_wildcard_names_the_namespace():
    with haggle() as wire:
        expect_equal("contexts", list(listed(wire, "base:")), [ALLOCATION])


@test
def list_reports_context_id_zero():
    requires_fdb_nbd()
    with haggle() as wire:
        expect_equal("contexts", listed(wire, ALLOCATION), {ALLOCATION: 0})


@test
def list_ignores_unknown_names_and_namespaces():
    with haggle() as wire:
        expect_equal("contexts", listed(wire, "x-nobody:thing"), {})
        expect_equal("contexts", listed(wire, "x-nobody:"), {})
        expect_equal("contexts", list(listed(wire, "x-nobody:thing", ALLOCATION)), [ALLOCATION])


@test
def list_names_a_context_once_for_several_queries():
    requires_fdb_nbd()
    with haggle() as wire:
        expect_equal("contexts", list(listed(wire, ALLOCATION, "base:", ALLOCATION)), [ALLOCATION])


@test
def list_selects_nothing():
    with haggle() as wire:
        listed(wire)
        wire.go("disk")
        wire.expect(EINVAL, CMD_BLOCK_STATUS, 0, 4096)


@test
def list_before_structured_replies_answers_or_is_invalid():
    with haggle(structured=False) as wire:
        wire.expect_option(OPT_LIST_META_CONTEXT, meta_data("disk", []), (REP_ACK, REP_ERR_INVALID), "LIST_META_CONTEXT")
        wire.go("disk")
        wire.read(0, 512)


@test
def set_before_structured_replies_is_invalid():
    with haggle(structured=False) as wire:
        wire.expect_option(OPT_SET_META_CONTEXT, meta_data("disk", [ALLOCATION]), REP_ERR_INVALID, "SET_META_CONTEXT")
        wire.structured_replies()
        wire.go("disk")
        wire.expect(EINVAL, CMD_BLOCK_STATUS, 0, 4096, what="BLOCK_STATUS after a SET that failed")


@test
def set_selects_and_block_status_works():
    with haggle() as wire:
        ids = wire.contexts(OPT_SET_META_CONTEXT, "disk", [ALLOCATION])
        expect_equal("contexts", list(ids), [ALLOCATION])
        wire.go("disk")
        reply = wire.expect(0, CMD_BLOCK_STATUS, 0, 4096)
        expect_equal("ids in the reply", list(reply.extents), list(ids.values()))


@test
def set_names_a_context_once_for_several_queries():
    requires_fdb_nbd()
    with haggle() as wire:
        expect_equal("contexts", selected(wire, ALLOCATION, ALLOCATION, "x-nobody:a", ALLOCATION), [ALLOCATION])
        wire.go("disk")
        wire.block_status(0, 4096)


@test
def set_ignores_the_wildcard():
    with haggle() as wire:
        expect_equal("contexts", selected(wire, "base:"), [])
        wire.go("disk")
        wire.expect(EINVAL, CMD_BLOCK_STATUS, 0, 4096)


@test
def set_ignores_unknown_names_and_namespaces():
    with haggle() as wire:
        expect_equal("contexts", selected(wire, "x-nobody:thing"), [])
        expect_equal("contexts", selected(wire, "x-nobody:thing", ALLOCATION), [ALLOCATION])


@test
def set_of_an_unknown_leaf_or_no_namespace_selects_nothing():
    for query in ("base:nothing", "base:allocation2", "base", "", "no-colon"):
        with haggle() as wire:
            replies = wire.expect_option(OPT_SET_META_CONTEXT, meta_data("disk", [query]), (REP_ACK, REP_ERR_INVALID), f"SET {query!r}")
            expect_equal(f"contexts for {query!r}", len(replies), 1)
            wire.go("disk")
            wire.expect(EINVAL, CMD_BLOCK_STATUS, 0, 4096)


@test
def set_without_a_query_clears():
    with haggle() as wire:
        selected(wire, ALLOCATION)
        expect_equal("contexts", selected(wire), [])
        wire.go("disk")
        wire.expect(EINVAL, CMD_BLOCK_STATUS, 0, 4096)


@test
def set_replaces_the_selection_before():
    with haggle() as wire:
        selected(wire, "x-nobody:thing")
        selected(wire, ALLOCATION)
        wire.go("disk")
        wire.block_status(0, 4096)


@test
def set_that_fails_clears():
    requires_fdb_nbd()
    bad = {"unknown export": (meta_data("nope", [ALLOCATION]), REP_ERR_UNKNOWN), "malformed": (meta_data("disk", [ALLOCATION])[:-1], REP_ERR_INVALID)}
    for what, (data, error) in bad.items():
        with haggle() as wire:
            selected(wire, ALLOCATION)
            wire.expect_option(OPT_SET_META_CONTEXT, data, error, f"SET_META_CONTEXT: {what}")
            wire.go("disk")
            wire.expect(EINVAL, CMD_BLOCK_STATUS, 0, 4096, what=f"BLOCK_STATUS after a SET that failed: {what}")


@test
def set_for_another_export_is_forgotten_at_go():
    requires_fdb_nbd()
    with haggle() as wire:
        selected(wire, ALLOCATION, name="other")
        wire.go("disk")
        wire.expect(EINVAL, CMD_BLOCK_STATUS, 0, 4096)
        wire.read(0, 512)


@test
def set_for_another_export_is_forgotten_at_export_name():
    requires_fdb_nbd()
    with haggle() as wire:
        selected(wire, ALLOCATION, name="other")
        wire.export_name("disk")
        wire.expect(EINVAL, CMD_BLOCK_STATUS, 0, 4096)


@test
def set_survives_info_and_a_go_that_fails():
    requires_fdb_nbd()
    with haggle() as wire:
        selected(wire, ALLOCATION)
        wire.go("disk", option=OPT_INFO)
        wire.list_exports()
        wire.go("disk")
        wire.block_status(0, 4096)


@test
def set_then_export_name_of_the_same_export_works():
    with haggle() as wire:
        selected(wire, ALLOCATION)
        wire.export_name("disk")
        wire.block_status(0, 4096)


@test
def unknown_export_is_unknown():
    requires_fdb_nbd()
    with haggle() as wire:
        for option in (OPT_LIST_META_CONTEXT, OPT_SET_META_CONTEXT):
            wire.expect_option(option, meta_data("nope", [ALLOCATION]), REP_ERR_UNKNOWN, f"option {option}")
            wire.expect_option(option, meta_data("x" * 4096, []), REP_ERR_UNKNOWN, f"option {option}")


def malformed():
    """(what, option data) of everything that must be ERR_INVALID."""
    head = struct.pack(">I", 4) + b"disk"
    query = struct.pack(">I", len(ALLOCATION)) + ALLOCATION.encode()
    for size in range(8):
        yield f"{size} bytes", meta_data("", [])[:size]
    yield "name beyond the option", struct.pack(">I", 1 << 20) + b"disk" + bytes(4)
    yield "name length 0xffffffff", struct.pack(">I", 0xFFFFFFFF) + b"disk" + bytes(4)
    yield "no count", head
    yield "half a count", head + b"\0\0"
    yield "one query claimed, none there", head + struct.pack(">I", 1)
    yield "two queries claimed, one there", head + struct.pack(">I", 2) + query
    yield "query beyond the option", head + struct.pack(">II", 1, len(ALLOCATION) + 1) + ALLOCATION.encode()
    yield "query length 0xffffffff", head + struct.pack(">II", 1, 0xFFFFFFFF) + ALLOCATION.encode()
    yield "bytes after the last query", head + struct.pack(">I", 1) + query + b"\0"
    yield "bytes after no query", head + struct.pack(">I", 0) + b"\0"


@test
def malformed_is_invalid_and_stays_in_sync():
    for option in (OPT_LIST_META_CONTEXT, OPT_SET_META_CONTEXT):
        for what, data in malformed():
            with haggle() as wire:
                wire.expect_option(option, data, REP_ERR_INVALID, f"option {option}: {what}")
                expect("LIST afterwards", len(wire.list_exports()) > 0, "in sync", "not")


@test
def counts_that_lie_reserve_no_memory():
    head = struct.pack(">I", 4) + b"disk"
    server().check_serves()
    before = server().resident_bytes()
    for option in (OPT_LIST_META_CONTEXT, OPT_SET_META_CONTEXT):
        for count in (0xFFFFFFFF, 0x7FFFFFFF, 1_000_000):
            with haggle() as wire:
                wire.expect_option(option, head + struct.pack(">I", count) + bytes(4), (REP_ERR_INVALID, REP_ERR_TOO_BIG), f"{count} queries")
                expect("LIST afterwards", len(wire.list_exports()) > 0, "in sync", "not")
    expect_memory("growth of the resident memory", server().resident_bytes() - before, 8 * MiB)


@test
def many_real_queries_are_answered_or_too_big():
    requires_fdb_nbd()
    for count in (100, 10_000, 100_000):
        with haggle() as wire:
            data = meta_data("disk", ["x-nobody:thing"] * count + [ALLOCATION])
            started = time.monotonic()
            wire.expect_option(OPT_SET_META_CONTEXT, data, (REP_ACK, REP_ERR_TOO_BIG, REP_ERR_INVALID), f"{count} queries")
            expect_quick(f"{count} queries", started, 2)
            expect("LIST afterwards", len(wire.list_exports()) > 0, "in sync", "not")


@test
def query_longer_than_a_string_is_refused_and_stays_in_sync():
    requires_fdb_nbd()
    with haggle() as wire:
        wire.expect_option(OPT_SET_META_CONTEXT, meta_data("disk", ["x:" + "y" * 4094]), REP_ACK, "a query of 4096 bytes")
        wire.expect_option(OPT_SET_META_CONTEXT, meta_data("disk", ["x:" + "y" * 4095]), REP_ERR_INVALID, "a query of 4097 bytes")
        wire.expect_option(OPT_SET_META_CONTEXT, meta_data("y" * 4097, []), REP_ERR_INVALID, "a name of 4097 bytes")
        expect("LIST afterwards", len(wire.list_exports()) > 0, "in sync", "not")


if __name__ == "__main__":
    main()
