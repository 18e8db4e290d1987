#!/usr/bin/python3
"""Option haggling: every option, info and reply type, well formed and not."""

import struct
import time

from lib import *   # noqa: F403
from lib import Server, main, test

UNKNOWN_OPTIONS = (0, OPT_PEEK_EXPORT, 12, 77, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
REFUSED = (REP_ERR_UNSUP, REP_ERR_POLICY, REP_ERR_INVALID)


def server():
    return shared(volumes={"disk": 64 * GiB})


def haggle():
    wire = server().connect()
    wire.start()
    return wire


def expect_in_sync(wire):
    """The next option is understood: LIST answers as ever."""
    expect_equal("LIST afterwards", list(wire.list_exports()), [""] if PEER == "nbdkit" else ["disk"])


@test
def unknown_option_is_unsup_and_stays_in_sync():
    for option in UNKNOWN_OPTIONS:
        with haggle() as wire:
            for size in (0, 1, 4, 4095, 65536):
                wire.expect_option(option, b"\x01" * size, REP_ERR_UNSUP, f"option {option} with {size} bytes")
    with haggle() as wire:
        wire.expect_option(77, b"abcd", REP_ERR_UNSUP, "option 77")
        expect_in_sync(wire)
        wire.go("disk")
        wire.read(0, 512)


@test
def options_of_one_to_32_mebibytes_are_refused_and_stay_in_sync():
    requires_fdb_nbd()
    refused = (REP_ERR_UNSUP, REP_ERR_TOO_BIG, REP_ERR_INVALID)
    for size in (MiB, 8 * MiB, 32 * MiB):
        for option, data in ((77, bytes(size)), (OPT_GO, go_data("disk") + bytes(size - 10))):
            with haggle() as wire:
                wire.expect_option(option, data, refused, f"option {option} of {size} bytes")
                expect_in_sync(wire)


@test
def option_length_of_four_gibibytes_closes_without_memory():
    server().check_serves()
    before = server().resident_bytes()
    for option in (OPT_GO, OPT_LIST, OPT_SET_META_CONTEXT, 77):
        with haggle() as wire:
            wire.send_option(option, b"", length=0xFFFFFFFF)
            started = time.monotonic()
            replies = wire.drain_until_closed(5)
            expect(f"option {option} of 4 GiB", len(replies) < 8192 and time.monotonic() - started < 2, "closed at once", len(replies))
    expect_memory("growth of the resident memory", server().resident_bytes() - before, 8 * MiB)


@test
def option_that_claims_60_mebibytes_reserves_no_memory():
    server().check_serves()
    before = server().resident_bytes()
    wires = [haggle() for _ in range(20)]
    for wire in wires:
        wire.send_option(OPT_GO, b"", length=60 * MiB)
    time.sleep(0.3)
    grown = server().resident_bytes() - before
    for wire in wires:
        wire.close()
    expect_memory("growth of the resident memory with 20 such options", grown, 16 * MiB)
    server().check_serves()


@test
def extended_headers_is_unsup_and_headers_stay_compact():
    requires_fdb_nbd()
    with haggle() as wire:
        wire.expect_option(OPT_EXTENDED_HEADERS, b"", REP_ERR_UNSUP, "EXTENDED_HEADERS")
        wire.expect_option(OPT_EXTENDED_HEADERS, b"1234", (REP_ERR_UNSUP, REP_ERR_INVALID), "EXTENDED_HEADERS with data")
        wire.go("disk")
        wire.read(0, 512)


@test
def starttls_without_tls_is_refused():
    with haggle() as wire:
        wire.expect_option(OPT_STARTTLS, b"", (REP_ERR_UNSUP, REP_ERR_POLICY), "STARTTLS")
        wire.expect_option(OPT_STARTTLS, b"data", REFUSED, "STARTTLS with data")
        expect_in_sync(wire)


@test
def abort_is_acknowledged_and_closes():
    for data in (b"", b"x", bytes(4096)):
        with haggle() as wire:
            wire.expect_option(OPT_ABORT, data, REP_ACK, f"ABORT with {len(data)} bytes")
            wire.expect_closed("after ABORT", within=2)


@test
def abort_by_a_client_that_is_gone_does_no_harm():
    for _ in range(50):
        wire = haggle()
        wire.send_option(OPT_ABORT)
        wire.reset()
    server().check_serves()


@test
def list_names_every_volume():
    requires_fdb_nbd()
    names = {"one", "a b", "snowman ☃", "n" * 255}
    with Server(volumes={name: MiB for name in sorted(names)}) as many, many.connect() as wire:
        wire.start()
        expect_equal("LIST", set(wire.list_exports()), names)
        for name in names:
            expect_equal(f"size of {name}", wire.go(name, option=OPT_INFO).size, MiB)


@test
def list_without_volumes_is_only_the_ack():
    requires_fdb_nbd()
    with Server(volumes={}) as empty, empty.connect() as wire:
        wire.start()
        expect_equal("LIST", wire.list_exports(), {})
        wire.expect_option(OPT_GO, go_data(""), REP_ERR_UNKNOWN, "GO of the only volume where there is none")


@test
def list_with_data_is_invalid():
    with haggle() as wire:
        wire.expect_option(OPT_LIST, b"x", REP_ERR_INVALID, "LIST with data")
        expect_in_sync(wire)


@test
def structured_reply_with_data_is_invalid_and_negotiates_nothing():
    with haggle() as wire:
        wire.expect_option(OPT_STRUCTURED_REPLY, b"x", REP_ERR_INVALID, "STRUCTURED_REPLY with data")
        export = wire.go("disk")
        expect("transmission flags", not export.flags & TF_SEND_DF, "no SEND_DF", f"{export.flags:#x}")
        wire.read(0, 512)   # fails on a structured reply


@test
def structured_reply_twice_stays_in_sync():
    with haggle() as wire:
        wire.structured_replies()
        wire.expect_option(OPT_STRUCTURED_REPLY, b"", (REP_ACK, REP_ERR_INVALID), "STRUCTURED_REPLY again")
        wire.go("disk")
        wire.read(0, 512)


def malformed_go():
    """(what, option data) of every INFO or GO that must be ERR_INVALID."""
    name = b"disk"
    head = struct.pack(">I", len(name)) + name
    for size in range(6):
        yield f"{size} bytes", go_data("")[:size]
    yield "name beyond the option", struct.pack(">I", 5) + name + b"\0\0"
    yield "name of all but the count", struct.pack(">I", 6) + name + b"\0\0"
    yield "name length 0xffffffff", struct.pack(">I", 0xFFFFFFFF) + name + b"\0\0"
    yield "name length 0xfffffffc", struct.pack(">I", 0xFFFFFFFC) + name + b"\0\0"
    yield "one info claimed, none there", head + struct.pack(">H", 1)
    yield "65535 infos claimed, one there", head + struct.pack(">HH", 65535, 3)
    yield "two infos claimed, one and a half there", head + struct.pack(">HHB", 2, 3, 0)
    yield "trailing byte", go_data("disk") + b"\0"
    yield "trailing info", head + struct.pack(">HHH", 1, 3, 0)


@test
def go_malformed_is_invalid_and_stays_in_sync():
    for option in (OPT_INFO, OPT_GO):
        for what, data in malformed_go():
            with haggle() as wire:
                wire.expect_option(option, data, REP_ERR_INVALID, f"option {option}: {what}")
                expect_in_sync(wire)


@test
def go_name_of_4096_bytes_is_looked_up():
    requires_fdb_nbd()
    with haggle() as wire:
        for option in (OPT_INFO, OPT_GO):
            wire.expect_option(option, go_data("x" * 4096), REP_ERR_UNKNOWN, "a name of 4096 bytes")
        wire.expect_option(OPT_GO, go_data("x" * 4096, range(100)), REP_ERR_UNKNOWN, "the same with 100 infos")
        wire.go("disk")


@test
def go_name_that_is_no_string_is_invalid():
    requires_fdb_nbd()
    names = {"4097 bytes": b"x" * 4097, "a NUL": b"di\0sk", "a NUL at the end": b"disk\0", "invalid UTF-8": b"\xc3\x28",
             "a surrogate": b"\xed\xa0\x80", "an overlong form": b"\xc0\xaf", "a cut character": b"disk\xe2\x98"}
    with haggle() as wire:
        for what, name in names.items():
            for option in (OPT_INFO, OPT_GO):
                wire.expect_option(option, go_data(name), REP_ERR_INVALID, f"a name with {what}")
        expect_in_sync(wire)


@test
def go_name_that_no_volume_can_have_fails():
    requires_fdb_nbd()
    with haggle() as wire:
        for name in ("../..", "/etc/passwd", "a\nb", "\x1b[2Jx", "disk/", "disk@", "@", "disk@snap", "Disk", "disk ", "%s%n"):
            wire.expect_option(OPT_GO, go_data(name), (REP_ERR_UNKNOWN, REP_ERR_INVALID), f"GO {name!r}")
        expect_in_sync(wire)
    with open(server().log_path, "rb") as log:
        expect("the log", b"\x1b" not in log.read(), "control characters escaped", "ESC as it came")


@test
def go_unknown_export_then_known():
    requires_fdb_nbd()
    with haggle() as wire:
        for option in (OPT_INFO, OPT_GO):
            replies = wire.expect_option(option, go_data("nope", [0, 1, 2, 3]), REP_ERR_UNKNOWN, "unknown export")
            expect_equal("replies before the error", len(replies), 1)
        wire.go("disk")
        wire.read(0, 512)


@test
def go_sends_info_export_unasked():
    with haggle() as wire:
        export = wire.go("disk", [])
        expect_equal("size", export.size, 64 * GiB)
        wire.expect_silence("after the ACK of GO: no padding")
        wire.read(0, 512)


@test
def go_without_no_zeroes_is_not_padded():
    with server().connect() as wire:
        wire.start(FLAG_FIXED_NEWSTYLE)
        wire.go("disk")
        wire.expect_silence("after the ACK of GO")
        wire.read(0, 512)


@test
def go_gives_the_infos_that_were_asked_for():
    requires_fdb_nbd()
    with haggle() as wire:
        export = wire.go("disk", [INFO_NAME, INFO_DESCRIPTION, INFO_BLOCK_SIZE, INFO_EXPORT])
        expect_equal("INFO_NAME", export.infos.get(INFO_NAME), b"disk")
        minimum, preferred, payload = export.infos[INFO_BLOCK_SIZE]
        expect_equal("minimum block size", minimum, 1)
        expect("preferred block size", preferred >= 512 and preferred & (preferred - 1) == 0, "a power of two from 512", preferred)
        expect_equal("maximum payload", payload, 32 * MiB)


@test
def go_ignores_infos_that_it_does_not_know():
    with haggle() as wire:
        wire.go("disk", [0x1234, 0x8000, 0xFFFF, 17], option=OPT_INFO)
        wire.go("disk", [0x1234] + list(range(4, 1000)))
        wire.read(0, 512)


@test
def go_accepts_an_info_that_is_asked_for_twice():
    with haggle() as wire:
        wire.expect_option(OPT_GO, go_data("disk", [INFO_BLOCK_SIZE, INFO_BLOCK_SIZE, INFO_EXPORT, INFO_NAME, INFO_NAME]), REP_ACK, "GO")
        wire.read(0, 512)


@test
def info_is_followed_by_the_same_go():
    for infos in ([], [0], [3], [0, 1, 2, 3], [3, 99]):
        for structured in (False, True):
            with haggle() as wire:
                if structured:
                    wire.structured_replies()
                info = wire.go("disk", infos, option=OPT_INFO)
                expect_equal(f"GO after INFO, infos {infos}", wire.go("disk", infos), info)


@test
def info_gives_the_real_size_and_changes_nothing():
    with haggle() as wire:
        expect_equal("size", wire.go("disk", option=OPT_INFO).size, 64 * GiB)
        expect_in_sync(wire)
        wire.structured_replies()
        wire.go("disk", option=OPT_INFO)
        wire.go("disk")
        wire.read(0, 512)


@test
def empty_name_is_the_only_volume():
    requires_fdb_nbd()
    with haggle() as wire:
        expect_equal("size", wire.go("", [INFO_NAME]).size, 64 * GiB)
    with server().connect() as wire:
        wire.start()
        wire.export_name("")
        expect_equal("size", wire.size, 64 * GiB)


@test
def empty_name_is_unknown_where_there_are_two_volumes():
    requires_fdb_nbd()
    with Server(volumes={"one": MiB, "two": MiB}) as two:
        with two.connect() as wire:
            wire.start()
            wire.expect_option(OPT_GO, go_data(""), REP_ERR_UNKNOWN, "GO ''")
            wire.go("two")
        with two.connect() as wire:
            wire.start()
            wire.send_option(OPT_EXPORT_NAME)
            wire.expect_closed("EXPORT_NAME ''")


@test
def transmission_flags_offer_everything_the_server_does():
    requires_fdb_nbd()
    always = (TF_HAS_FLAGS | TF_SEND_FLUSH | TF_SEND_FUA | TF_SEND_TRIM | TF_SEND_WRITE_ZEROES | TF_CAN_MULTI_CONN
              | TF_SEND_CACHE | TF_SEND_FAST_ZERO)
    with haggle() as wire:
        expect_equal("flags", f"{wire.go('disk').flags:#x}", f"{always:#x}")
    with haggle() as wire:
        wire.structured_replies()
        expect_equal("flags with structured replies", f"{wire.go('disk').flags:#x}", f"{always | TF_SEND_DF:#x}")


@test
def transmission_flags_have_df_only_with_structured_replies():
    with haggle() as wire:
        expect("flags", not wire.go("disk", option=OPT_INFO).flags & TF_SEND_DF, "no SEND_DF", "SEND_DF")
        wire.structured_replies()
        expect("flags", wire.go("disk", option=OPT_INFO).flags & TF_SEND_DF, "SEND_DF", "none")


@test
def transmission_flags_of_a_read_only_server():
    with Server(volumes={"disk": MiB}, read_only=True) as readonly, readonly.connect() as wire:
        wire.start()
        flags = wire.go("disk").flags
        expect("flags", flags & TF_READ_ONLY, "READ_ONLY", f"{flags:#x}")
        expect("flags", flags & TF_SEND_WRITE_ZEROES or not flags & TF_SEND_FAST_ZERO, "FAST_ZERO only with WRITE_ZEROES", f"{flags:#x}")


@test
def option_flood_is_cut_off():
    requires_fdb_nbd()
    with haggle() as wire:
        count = 10_000
        wire.send_in_background(option_bytes(OPT_INFO, go_data("nope")) * count)
        answered = wire.drain_until_closed(20).count(struct.pack(">QI", 0x0003E889045565A9, OPT_INFO))
        expect("10,000 options on one connection", 64 <= answered < count, "64 answered at least, then closed", answered)
    server().check_serves()


if __name__ == "__main__":
    main()
