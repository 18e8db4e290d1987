#!/usr/bin/python3
"""The first bytes of a connection: greeting, client flags, EXPORT_NAME, deadlines, and clients that stop half-way."""

import struct
import time

from lib import *   # noqa: F403
from lib import Failure, main, test


def server():
    return shared(volumes={"disk": 64 * GiB})


@test
def greeting_is_fixed_newstyle_with_no_zeroes():
    with server().connect() as wire:
        expect_equal("handshake flags", wire.greeting(), FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES)
        wire.expect_silence("before the client flags")


@test
def client_flag_that_was_not_offered_closes():
    for bit in list(range(2, 32)):
        for base in (0, 3):
            with server().connect() as wire:
                wire.start(1 << bit | base)
                wire.expect_closed(f"client flags {1 << bit | base:#x}", within=2)
    server().check_serves()


@test
def client_flag_that_was_not_offered_closes_even_with_options_behind_it():
    with server().connect() as wire:
        wire.greeting()
        wire.send(struct.pack(">I", 0x80000003) + option_bytes(OPT_LIST) + option_bytes(OPT_GO, go_data("disk")))
        wire.expect_closed("client flags 0x80000003, LIST, GO", within=2)


@test
def export_name_without_no_zeroes_pads_with_124_zero_bytes():
    with server().connect() as wire:
        wire.start(FLAG_FIXED_NEWSTYLE)
        wire.export_name("disk", padding=124)
        expect_equal("size", wire.size, 64 * GiB)
        expect_equal("READ", wire.read(wire.size - 512, 512), bytes(512))
        wire.disconnect()


@test
def export_name_with_no_zeroes_is_ten_bytes():
    with server().connect() as wire:
        wire.start(FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES)
        wire.export_name("disk", padding=0)
        wire.expect_silence("after the ten bytes")
        expect_equal("READ", wire.read(wire.size - 512, 512), bytes(512))
        wire.disconnect()


@test
def export_name_works_without_fixed_newstyle():
    with server().connect() as wire:
        wire.start(0)
        wire.export_name("disk", padding=124)
        expect_equal("READ", wire.read(wire.size - 512, 512), bytes(512))
        wire.disconnect()


@test
def export_name_without_fixed_newstyle_but_with_no_zeroes_is_ten_bytes():
    with server().connect() as wire:
        wire.start(FLAG_NO_ZEROES)
        wire.export_name("disk", padding=0)
        wire.expect_silence("after the ten bytes")
        wire.disconnect()


@test
def export_name_has_the_size_and_flags_of_go():
    with server().connect() as wire, server().connect() as other:
        wire.start()
        wire.export_name("disk")
        other.start()
        export = other.go("disk")
        expect_equal("size and flags", (wire.size, wire.flags), (export.size, export.flags))


@test
def export_name_after_structured_reply_uses_structured_replies():
    with server().connect() as wire:
        wire.start()
        wire.structured_replies()
        wire.export_name("disk")
        expect("transmission flags", wire.flags & TF_SEND_DF, "SEND_DF", f"{wire.flags:#x}")
        reply = wire.expect(0, CMD_READ, 0, 512)
        expect("READ", reply.structured, "a structured reply", "a simple one")


@test
def export_name_unknown_closes_without_a_byte():
    requires_fdb_nbd()
    for name in (b"no such volume", b"x" * 4096, b"x" * 4097, b"nul\0here", b"\xff\xfe"):
        with server().connect() as wire:
            wire.start()
            wire.send_option(OPT_EXPORT_NAME, name)
            wire.expect_closed(f"EXPORT_NAME {name[:32]!r} of {len(name)} bytes", within=2)


@test
def option_without_fixed_newstyle_closes_or_fails_and_never_starts_tls():
    for option, data in ((OPT_LIST, b""), (OPT_STARTTLS, b""), (OPT_GO, go_data("disk"))):
        with server().connect() as wire:
            wire.start(0)
            wire.send_option(option, data)
            try:
                reply = wire.option_reply(option)
            except Failure:
                continue   # closed: allowed
            if option == OPT_STARTTLS:
                expect("STARTTLS without fixed newstyle", reply.type & REP_ERR, "an error", reply_name(reply.type))
    server().check_serves()


@test
def option_magic_wrong_closes():
    for magic in (0, NBDMAGIC, 0x0003E889045565A9, (1 << 64) - 1):
        with server().connect() as wire:
            wire.start()
            wire.send_option(OPT_LIST, b"", magic=magic)
            wire.expect_closed(f"option magic {magic:#x}", within=2)


@test
def option_magic_wrong_after_a_good_option_closes():
    with server().connect() as wire:
        wire.start()
        wire.list_exports()
        wire.send_option(OPT_GO, go_data("disk"), magic=IHAVEOPT ^ 1)
        wire.expect_closed("the second option's magic", within=2)


@test
def bytes_of_another_protocol_close():
    hello = bytes.fromhex("1603010200010001fc0303") + bytes(500)
    for data in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", hello, b"SSH-2.0-OpenSSH_9.2\r\n" + bytes(100)):
        with server().connect() as wire:
            wire.greeting()
            wire.send(data)
            wire.expect_closed(f"{data[:10]!r}", within=2)
    server().check_serves()


@test
def one_byte_per_segment_gives_the_same_session_as_one_segment():
    def session(step):
        with server().connect(tcp=not PEER) as wire:
            data = whole_session()
            for at in range(0, len(data), step):
                wire.send(data[at:at + step])
            return wire.drain_until_closed(10)

    at_once = session(1 << 20)
    expect("the session", len(at_once) > 200, "more than a greeting", len(at_once))
    expect_data("bytes from the server", session(1), at_once)


def whole_session():
    """Every phase of a session in its wire form, the client flags first."""
    return (struct.pack(">I", 3) + option_bytes(OPT_LIST) + option_bytes(77, b"abcd") + option_bytes(OPT_INFO, go_data("disk", [3]))
            + option_bytes(OPT_STRUCTURED_REPLY) + option_bytes(OPT_SET_META_CONTEXT, meta_data("disk", ["base:allocation"]))
            + option_bytes(OPT_GO, go_data("disk", [0, 1, 3])) + request_bytes(CMD_WRITE, 0, 512, 0, 1, b"w" * 512)
            + request_bytes(CMD_DISC))


@test
def disconnect_at_every_byte_of_a_session_leaves_no_trace():
    data = whole_session()
    server().check_serves()
    files = server().file_count()
    for length in range(len(data)):
        wire = server().connect(tcp=bool(length & 1) and not PEER)
        wire.greeting()
        wire.send(data[:length])
        if length & 2:
            wire.reset()
        else:
            wire.close()
    server().check_serves()
    eventually("open files of the server, back to what they were", lambda: server().file_count() <= files)


@test
def disconnect_before_the_greeting_is_read_does_no_harm():
    for _ in range(100):
        wire = server().connect(tcp=not PEER)
        wire.reset()
    server().check_serves()


@test
def shutdown_of_the_sending_side_ends_the_handshake():
    with server().connect() as wire:
        wire.start()
        wire.list_exports()
        wire.sock.shutdown(1)
        wire.expect_closed("after the client's end of file", within=2)


def deadline_server():
    requires_fdb_nbd()
    return shared("deadline", volumes={"disk": 64 * GiB}, args=["--handshake-timeout", "1"])


def seconds_until_closed(wire, send, every=0.1, within=10):
    """Calls `send(wire)` again and again until the server closes; returns how long that took."""
    started = time.monotonic()
    wire.sock.settimeout(every)
    while time.monotonic() - started < within:
        try:
            send(wire)
            if not wire.sock.recv(65536):
                break
            time.sleep(every)
        except TimeoutError:
            continue
        except (Failure, OSError):
            break
    return time.monotonic() - started


def expect_deadline(seconds, what):
    expect(what, 0.7 <= seconds <= 5 * SLOWNESS, "closed after the handshake timeout of 1 s", f"{seconds:.2f} s")


@test
def handshake_deadline_closes_a_silent_client():
    with deadline_server().connect() as wire:
        wire.greeting()
        expect_deadline(seconds_until_closed(wire, lambda w: None), "no client flags")
    with deadline_server().connect() as wire:
        wire.start()
        expect_deadline(seconds_until_closed(wire, lambda w: None), "no option")


@test
def handshake_deadline_closes_a_client_that_dribbles():
    with deadline_server().connect() as wire:
        wire.start()
        data = iter(option_bytes(OPT_GO, go_data("x" * 4000)))
        expect_deadline(seconds_until_closed(wire, lambda w: w.send(bytes([next(data)]))), "one byte at a time")


@test
def handshake_deadline_closes_inside_the_payload_of_an_option():
    with deadline_server().connect() as wire:
        wire.start()
        wire.send_option(OPT_GO, b"\0\0", length=1000)
        expect_deadline(seconds_until_closed(wire, lambda w: None), "payload that never comes")


@test
def handshake_deadline_is_not_moved_by_options():
    with deadline_server().connect() as wire:
        wire.start()
        expect_deadline(seconds_until_closed(wire, lambda w: w.send_option(OPT_LIST)), "an option every 0.1 s")


@test
def handshake_deadline_does_not_concern_transmission():
    with deadline_server().session() as wire:
        wire.expect_silence("after GO", seconds=2.5)
        expect_equal("READ", len(wire.read(0, 512)), 512)
        wire.disconnect()


@test
def handshake_deadline_is_ten_seconds_by_default():
    requires_fdb_nbd()
    with server().connect() as wire:
        wire.greeting()
        seconds = seconds_until_closed(wire, lambda w: None, within=15)
        expect("a silent client", 9 <= seconds <= 14, "closed after 10 s", f"{seconds:.2f} s")


if __name__ == "__main__":
    main()
