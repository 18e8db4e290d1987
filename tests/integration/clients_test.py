#!/usr/bin/python3
"""Other people's clients: libnbd's tools, nbdsh, QEMU's tools, fio, nbd-client."""

import hashlib
import json
import os
import re

from lib import *   # noqa: F403
from lib import main, test

SIZE = 256 * MiB


def server():
    """RocksDB, with one volume of 256 MiB that tests overwrite in turn."""
    return shared(volumes={"disk": SIZE}, store="rocksdb:DIR")


def uris():
    return [server().uri()] + ([] if PEER else [server().uri(tcp=True)])


def path(name):
    return os.path.join(server().directory, name)


def sparse_file(name, size=64 * MiB, seed=1):
    """Data at both ends and in the middle, an unaligned piece, and holes between. Returns its path."""
    with open(path(name), "wb") as file:
        for offset, length in ((0, 3 * MiB), (size // 2 - 1000, 12345), (size // 2 + MiB, 4096), (size - 2 * MiB, 2 * MiB)):
            file.seek(offset)
            file.write(pattern(length, seed + offset))
        file.truncate(size)
    return path(name)


def digest(name):
    with open(name, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fresh_server(**options):
    """A server of its own for tests that want a volume with nothing in it."""
    return Server(volumes={"disk": 64 * MiB}, store="rocksdb:DIR", **options)


# -- libnbd's tools -------------------------------------------------------------------------------


@test
def nbdinfo_answers_every_can_and_is():
    requires_fdb_nbd()
    yes = ["--can=connect", "--can=cache", "--can=df", "--can=fast-zero", "--can=flush", "--can=fua", "--can=multi-conn", "--can=trim",
           "--can=write", "--can=zero", "--can=read", "--can=structured-reply"]
    no = ["--is=read-only", "--is=rotational", "--is=tls"]
    for uri in uris():
        for flag in yes:
            tool("nbdinfo", flag, uri, status=0)
        for flag in no:
            tool("nbdinfo", flag, uri, status=2)


@test
def nbdinfo_prints_the_size():
    for uri in uris():
        expect_equal("nbdinfo --size", tool("nbdinfo", "--size", uri).stdout.strip(), str(SIZE))


@test
def nbdinfo_prints_json():
    requires_fdb_nbd()
    for uri in uris():
        info = json.loads(tool("nbdinfo", "--json", uri).stdout)
        expect_equal("protocol", (info["protocol"], info["TLS"], info["structured"]), ("newstyle-fixed", False, True))
        (export,) = info["exports"]
        expect_equal("export", (export["export-name"], export["export-size"]), ("disk", SIZE))
        expect_equal("block size", (export["block_size_minimum"], export["block_size_maximum"]), (1, 32 * MiB))
        expect("contexts", "base:allocation" in export["contexts"], "base:allocation", export["contexts"])
        for key in ("can_multi_conn", "can_flush", "can_fua", "can_trim", "can_zero", "can_fast_zero", "can_cache", "can_df"):
            expect_equal(key, export[key], True)
        expect_equal("is_read_only", export["is_read_only"], False)


@test
def nbdinfo_prints_text():
    for uri in uris():
        text = tool("nbdinfo", uri).stdout
        expect("nbdinfo", re.search(r"export-size: 268435456", text) and "newstyle-fixed" in text, "size and protocol", text)


@test
def nbdinfo_lists_every_export():
    requires_fdb_nbd()
    with Server(volumes={"one": MiB, "two": 2 * MiB, "three with spaces": 3 * MiB}) as many:
        for uri in (f"nbd://127.0.0.1:{many.port}", f"nbd+unix:///?socket={many.socket_path}"):
            exports = json.loads(tool("nbdinfo", "--list", "--json", uri).stdout)["exports"]
            expect_equal("nbdinfo --list", {e["export-name"]: e["export-size"] for e in exports},
                         {"one": MiB, "two": 2 * MiB, "three with spaces": 3 * MiB})


@test
def nbdinfo_maps_holes():
    requires_fdb_nbd()
    with fresh_server() as one:
        with one.session() as wire:
            wire.write(16 * MiB, pattern(4 * MiB, 1))
        lines = json.loads(tool("nbdinfo", "--map", "--json", one.uri()).stdout)
        merged = []
        for line in lines:
            if merged and merged[-1][2] == line["type"]:
                merged[-1][1] += line["length"]
            else:
                merged.append([line["offset"], line["length"], line["type"]])
        expect_equal("nbdinfo --map", merged, [[0, 16 * MiB, 3], [16 * MiB, 4 * MiB, 0], [20 * MiB, 44 * MiB, 3]])


@test
def nbdcopy_in_and_out_is_the_same():
    source, back = sparse_file("in"), path("out")
    for uri in uris():
        for options in ([], ["--connections=4", "--requests=64"], ["--connections=1", "--requests=1"], ["--synchronous"]):
            tool("nbdcopy", *options, "--flush", source, uri)
            tool("nbdcopy", *options, uri, back)
            with open(back, "rb+") as file:
                file.truncate(64 * MiB)
            expect_equal(f"sha256 after nbdcopy {' '.join(options)}", digest(back), digest(source))
            os.unlink(back)


@test
def nbdcopy_of_a_sparse_file_stores_no_zeroes():
    requires_fdb_nbd()
    with fresh_server() as one:
        tool("nbdcopy", sparse_file("in"), one.uri())
        with one.session(context=True) as wire:
            data = sum(size for size, status in wire.block_status(0, 64 * MiB) if status == 0)
            expect("data in the volume", 5 * MiB <= data <= 5 * MiB + 128 * KiB, "5 MiB and a little", data)


@test
def nbdcopy_out_keeps_holes():
    requires_fdb_nbd()
    with fresh_server() as one:
        tool("nbdcopy", sparse_file("in"), one.uri())
        target = path("sparse out")
        tool("nbdcopy", one.uri(), target)
        used = os.stat(target).st_blocks * 512
        expect("disk usage of the copy", used < 16 * MiB, "sparse", used)
        expect_equal("sha256", digest(target), digest(path("in")))


@test
def nbdcopy_from_volume_to_volume():
    requires_fdb_nbd()
    with Server(volumes={"from": 64 * MiB, "to": 64 * MiB}, store="rocksdb:DIR") as two:
        tool("nbdcopy", sparse_file("in"), two.uri("from"))
        tool("nbdcopy", "--connections=4", "--requests=64", two.uri("from"), two.uri("to"))
        tool("qemu-img", "compare", "-f", "raw", "-F", "raw", two.uri("from"), two.uri("to"))


@test
def nbddump_prints_the_first_bytes():
    with server().session() as wire:
        wire.write(0, b"hello, dump" + bytes(501))
    expect("nbddump", "hello, dump" in tool("nbddump", "--length=512", server().uri()).stdout, "the text", "not there")


@test
def nbdkit_proxies_the_volume():
    requires("nbdkit", "nbdcopy")
    source = sparse_file("in", seed=9)
    for uri in uris():
        tool("nbdkit", "-U", "-", "nbd", f"uri={uri}", "--run", f"nbdcopy {source} $uri")
        tool("nbdkit", "-U", "-", "nbd", f"uri={uri}", "shared=true", "--run", "nbdinfo --can=fua $uri && nbdinfo --size $uri")
        out = tool("nbdkit", "-U", "-", "--filter=blocksize", "nbd", f"uri={uri}", "minblock=4096", "--run", "nbdcopy $uri - | head -c 67108864 | sha256sum")
        expect_equal("sha256 through the proxy", out.stdout.split()[0], digest(source))


# -- nbdsh ----------------------------------------------------------------------------------------

NBDSH_HELPER = """
import nbd
def err(f, *a, **k):
    try:
        f(*a, **k)
        return "OK"
    except nbd.Error as e:
        return e.errno
"""


def nbdsh(code, *before, uri=None):
    arguments = []
    for line in before:
        arguments += ["-c", line]
    return tool("nbdsh", *arguments, "-u", uri or server().uri(), "-c", NBDSH_HELPER + code)


@test
def nbdsh_reads_what_it_wrote():
    for uri in uris():
        nbdsh("""
h.zero(65536, 0)
h.pwrite(b"A" * 512, 0)
assert h.pread(512, 0) == b"A" * 512
h.pwrite(b"B" * 700, 12345, nbd.CMD_FLAG_FUA)
assert h.pread(702, 12344) == b"\\0" + b"B" * 700 + b"\\0", h.pread(702, 12344)
h.zero(512, 0)
assert h.pread(512, 0) == bytes(512)
h.zero(700, 12345)
h.flush()
""", uri=uri)


@test
def nbdsh_invalid_requests_get_the_errors_of_the_protocol():
    if PEER == "qemu-nbd":
        raise Skip("qemu-nbd answers EINVAL to writes past the end")
    for structured in (True, False):
        nbdsh("""
s = h.get_size()
assert err(h.pread, 512, s) == "EINVAL"
assert err(h.pwrite, b"x" * 512, s) == "ENOSPC"
assert err(h.trim, 512, s) == "EINVAL"
assert err(h.zero, 512, s) == "ENOSPC"
assert err(h.cache, 512, s) == "EINVAL"
assert err(h.pread, 512, s - 256) == "EINVAL"
assert err(h.pwrite, b"x" * 512, s - 256) == "ENOSPC"
assert err(h.pread, 512, 0, flags=0x4000) == "EINVAL"
assert err(h.pwrite, b"x" * 512, 0, flags=0x4000) == "EINVAL"
assert err(h.trim, 512, 0, nbd.CMD_FLAG_NO_HOLE) == "EINVAL"
assert err(h.flush, flags=nbd.CMD_FLAG_REQ_ONE) == "EINVAL"
assert err(h.zero, 4096, 0, nbd.CMD_FLAG_FAST_ZERO) in ("OK", "ENOTSUP")
assert err(h.block_status, 512, 0, lambda *a: 0) in ("EINVAL", "ENOTSUP")
h.pread(512, 0)
""", "h.set_strict_mode(0)", f"h.set_request_structured_replies({structured})")


@test
def nbdsh_block_status_works():
    nbdsh("""
seen = []
h.block_status(65536, 0, lambda name, offset, entries, error: seen.append((name, offset, list(entries))) or 0)
assert len(seen) == 1 and seen[0][0] == "base:allocation" and seen[0][1] == 0, seen
assert sum(seen[0][2][::2]) >= 65536, seen
""", 'h.add_meta_context("base:allocation")')


@test
def nbdsh_without_structured_replies_works():
    nbdsh("""
assert not h.get_structured_replies_negotiated()
assert not h.can_df()
h.pwrite(b"S" * 4096, 4096)
assert h.pread(4096, 4096) == b"S" * 4096
""", "h.set_request_structured_replies(False)")


@test
def nbdsh_without_fixed_newstyle_works():
    for flags in (0, 2):
        nbdsh("""
assert h.get_protocol() == "newstyle", h.get_protocol()
assert h.get_size() == 268435456
h.pwrite(b"N" * 4096, 4096)
assert h.pread(4096, 4096) == b"N" * 4096
""", f"h.set_handshake_flags({flags})")


@test
def nbdsh_without_no_zeroes_works():
    nbdsh("""
assert h.get_protocol() == "newstyle-fixed"
assert h.get_size() == 268435456
h.pread(4096, 0)
""", "h.set_handshake_flags(nbd.HANDSHAKE_FLAG_FIXED_NEWSTYLE)")


@test
def nbdsh_without_block_size_works():
    nbdsh("""
assert h.get_size() == 268435456
h.pwrite(b"Z" * 3, 7)
assert h.pread(3, 7) == b"ZZZ"
""", "h.set_request_block_size(False)")


@test
def nbdsh_full_info_gives_the_canonical_name():
    requires_fdb_nbd()
    nbdsh('assert h.get_canonical_export_name() == "disk", h.get_canonical_export_name()', "h.set_full_info(True)")


@test
def nbdsh_negotiates_by_hand():
    requires_fdb_nbd()
    code = f"""
h.connect_uri("{server().uri()}")
names = []
h.opt_list(lambda name, description: names.append(name) or 0)
assert names == ["disk"], names
h.set_export_name("no such volume")
assert err(h.opt_info) == "ENOENT", err(h.opt_info)
assert err(h.opt_go) == "ENOENT"
h.set_export_name("disk")
h.opt_info()
assert h.get_size() == 268435456
h.opt_go()
h.pread(512, 0)
h.shutdown()
"""
    tool("nbdsh", "--opt-mode", "-c", NBDSH_HELPER + code)
    tool("nbdsh", "--opt-mode", "-c", f'h.connect_uri("{server().uri()}")', "-c", "h.opt_abort()")


@test
def nbdsh_many_requests_in_flight():
    nbdsh("""
import random
random.seed(1)
size = 4096
data = [random.randbytes(size) for _ in range(512)]
cookies = [h.aio_pwrite(d, i * size) for i, d in enumerate(data)]
while cookies:
    h.poll(-1)
    cookies = [c for c in cookies if not h.aio_command_completed(c)]
buffers = [nbd.Buffer(size) for _ in data]
cookies = [h.aio_pread(b, i * size) for i, b in enumerate(buffers)]
while cookies:
    h.poll(-1)
    cookies = [c for c in cookies if not h.aio_command_completed(c)]
assert all(bytes(b.to_bytearray()) == d for b, d in zip(buffers, data))
""")


# -- QEMU's tools ---------------------------------------------------------------------------------


@test
def qemu_img_info_works():
    for uri in uris():
        info = json.loads(tool("qemu-img", "info", "--output=json", uri).stdout)
        expect_equal("qemu-img info", (info["virtual-size"], info["format"]), (SIZE, "raw"))


@test
def qemu_img_converts_and_compares():
    source = sparse_file("in", size=SIZE, seed=5)
    for uri in uris():
        for options in (["-n", "-W", "-m", "16"], ["-n", "-m", "1"], ["-n", "-W", "-t", "none"]):
            tool("qemu-img", "convert", *options, "-f", "raw", "-O", "raw", source, uri)
            tool("qemu-img", "compare", "-f", "raw", "-F", "raw", source, uri)
        tool("qemu-img", "convert", "-f", "raw", "-O", "raw", uri, path("converted"))
        tool("qemu-img", "compare", "-f", "raw", "-F", "raw", source, path("converted"))
        os.unlink(path("converted"))


@test
def qemu_img_compare_sees_one_byte():
    source = sparse_file("in", size=SIZE, seed=6)
    tool("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", source, server().uri())
    with server().session() as wire:
        wire.write(100 * MiB + 3, b"!")
    tool("qemu-img", "compare", "-f", "raw", "-F", "raw", source, server().uri(), status=1)


@test
def qemu_img_converts_qcow2():
    source, qcow = sparse_file("in", size=SIZE, seed=7), path("image.qcow2")
    tool("qemu-img", "convert", "-f", "raw", "-O", "qcow2", source, qcow)
    tool("qemu-img", "convert", "-n", "-f", "qcow2", "-O", "raw", qcow, server().uri())
    tool("qemu-img", "compare", "-f", "raw", "-F", "qcow2", server().uri(), qcow)


@test
def qemu_img_keeps_a_qcow2_image_inside_a_volume():
    with Server(volumes={"disk": 64 * MiB}, store="memory:") as one:
        tool("qemu-img", "create", "-f", "qcow2", one.uri(), "1G")
        tool("qemu-io", "-f", "qcow2", "-c", "write -P 0x5a 900M 1M", "-c", "flush", one.uri())
        tool("qemu-io", "-f", "qcow2", "-c", "read -P 0x5a 900M 1M", "-c", "read -P 0 0 1M", one.uri())
        tool("qemu-img", "check", "-f", "qcow2", one.uri())


@test
def qemu_img_maps_holes():
    requires_fdb_nbd()
    with fresh_server() as one:
        with one.session() as wire:
            wire.write(16 * MiB, pattern(4 * MiB, 1))
        extents = json.loads(tool("qemu-img", "map", "--output=json", "-f", "raw", one.uri()).stdout)
        merged = []
        for e in extents:
            if merged and merged[-1][2] == e["data"]:
                merged[-1][1] += e["length"]
            else:
                merged.append([e["start"], e["length"], e["data"]])
        expect_equal("qemu-img map", merged, [[0, 16 * MiB, False], [16 * MiB, 4 * MiB, True], [20 * MiB, 44 * MiB, False]])


@test
def qemu_img_bench_writes_and_reads():
    for uri in uris():
        tool("qemu-img", "bench", "-c", "5000", "-d", "64", "-s", "4096", "-w", "-f", "raw", uri)
        tool("qemu-img", "bench", "-c", "5000", "-d", "64", "-s", "4096", "-f", "raw", uri)
        tool("qemu-img", "bench", "-c", "200", "-d", "8", "-s", "4096", "-w", "--flush-interval=8", "-f", "raw", uri)


@test
def qemu_io_does_every_operation():
    commands = ["write -P 0xab 0 64k", "read -P 0xab 0 64k", "write -z -u 0 64k", "read -P 0 0 64k", "write -f -P 1 4k 4k",
                "read -P 0 0 4k", "read -P 1 4k 4k", "read -P 0 8k 56k", "write -P 2 512 512", "read -P 2 512 512", "discard 0 64k",
                "write -P 3 1M 32M", "read -P 3 1M 32M", "write -z 1M 16M", "read -P 0 1M 16M", "read -P 3 17M 16M",
                "aio_write -P 4 40M 64k", "aio_write -P 5 41M 64k", "aio_flush", "read -P 4 40M 64k", "read -P 5 41M 64k", "flush"]
    for uri in uris():
        done = tool("qemu-io", "-f", "raw", *(x for c in commands for x in ("-c", c)), uri)
        expect("qemu-io", "verification failed" not in done.stdout and "error" not in (done.stdout + done.stderr).lower(), "no error",
               done.stdout + done.stderr)


@test
def qemu_io_past_the_end_fails():
    done = tool("qemu-io", "-f", "raw", "-c", "read 256M 4k", server().uri(), status=None)
    expect("qemu-io", "error" in (done.stdout + done.stderr).lower(), "an error", done.stdout + done.stderr)
    server().check_serves()


# -- fio ------------------------------------------------------------------------------------------


def fio(*options, uri):
    requires("fio")
    engines = tool("fio", "--enghelp").stdout
    if "nbd" not in engines.split():
        raise Skip("fio has no NBD engine here")
    out = tool("fio", "--name=verify", "--ioengine=nbd", f"--uri={uri}", "--output-format=json", "--verify_fatal=1",
               "--verify_state_save=0", *options)
    for job in json.loads(out.stdout[out.stdout.index("{"):])["jobs"]:
        expect_equal("errors of a fio job", (job["error"], job["total_err"] if "total_err" in job else 0), (0, 0))


@test
def fio_verifies_at_depth_32_on_one_connection():
    for uri in uris():
        for pattern_of in ("randwrite", "write"):
            fio(f"--rw={pattern_of}", "--bs=4k", "--iodepth=32", "--size=16m", "--verify=crc32c", "--do_verify=1", uri=uri)


@test
def fio_verifies_at_depth_32_on_four_connections():
    for uri in uris():
        fio("--rw=randwrite", "--bs=4k", "--iodepth=32", "--size=8m", "--numjobs=4", "--offset_increment=16m", "--verify=crc32c",
            "--do_verify=1", "--group_reporting", uri=uri)


@test
def fio_verifies_odd_block_sizes():
    fio("--rw=randwrite", "--bsrange=512-72k", "--bs_unaligned", "--iodepth=32", "--size=16m", "--verify=crc32c", "--do_verify=1",
        uri=server().uri())


@test
def fio_verifies_with_flushes_and_trims():
    fio("--rw=randwrite", "--bs=16k", "--iodepth=16", "--size=16m", "--fsync=64", "--verify=crc32c", "--do_verify=1", uri=server().uri())
    fio("--rw=randtrim", "--bs=16k", "--iodepth=16", "--size=16m", uri=server().uri())


# -- nbd-client -----------------------------------------------------------------------------------


@test
def nbd_client_lists_the_exports():
    requires_fdb_nbd()
    requires("nbd-client")
    with Server(volumes={"one": MiB, "two": MiB}) as many:
        done = tool("nbd-client", "-l", "127.0.0.1", str(many.port), status=None)
        expect("nbd-client -l", {"one", "two"} <= set(done.stdout.split()), "one and two", done.stdout + done.stderr)
        expect_equal("exit status of nbd-client -l", done.returncode, 0)


if __name__ == "__main__":
    main()
