#!/usr/bin/python3
"""The verbs on volumes: create ls info resize rm mv du check status version completion help."""

import json
import os
import re
import signal
import socket
import subprocess
import tempfile
import time

from cli_lib import *   # noqa: F403
from cli_lib import Server, main, test


@test(limit=120)
def volumes_live_through_all_verbs_on_every_kind_of_store():
    for stores in STORES:
        with stores() as store:
            fdb_nbd("create", "a", "1G", store=store)
            fdb_nbd("create", "größe 2", "512", "--block-size", "64K", "--compression", "zstd", store=store)
            listing = json_of("ls", store=store)["volumes"]
            expect_equal("names", [volume["name"] for volume in listing], ["a", "größe 2"])
            for volume in listing:
                expect_types("a volume", volume, VOLUME_TYPES)
                expect("created", RFC3339.match(volume["created"]), "RFC 3339", volume["created"])
                expect_equal("used", volume["used_bytes"], 0)
                expect_equal("snapshots", volume["snapshots"], [])
            expect_equal("block size", [volume["block_size"] for volume in listing], [4096, 65536])
            expect_equal("compression", [volume["compression"] for volume in listing], ["lz4", "zstd"])
            info = json_of("info", "a", store=store)
            expect_equal("info", info, listing[0])
            fdb_nbd("resize", "a", "2G", store=store)
            expect_equal("size", json_of("info", "a", store=store)["size_bytes"], 2 * GiB)
            fdb_nbd("resize", "a", "1M", "--allow-shrink", store=store)
            expect_equal("size", json_of("info", "a", store=store)["size_bytes"], MiB)
            fdb_nbd("mv", "a", "b", store=store)
            expect_equal("names", fdb_nbd("ls", "--names", store=store).stdout, "b\ngröße 2\n")
            fdb_nbd("rm", "b", store=store)
            expect_equal("names", [volume["name"] for volume in json_of("ls", store=store)["volumes"]], ["größe 2"])


@test(limit=120)
def mistakes_have_their_status_and_one_line_that_names_the_object():
    for stores in STORES:
        with stores() as store:
            fdb_nbd("create", "a", "1G", store=store)
            expect_words(error_of("create", "a", "1G", store=store, status=4), "a", "exists")
            for size in ("", "x", "100", "-1", "0", "8E", "9223372036854775808", "1.0001K", "1Q", "99999999999999999999"):
                error_of("create", "b", "--", size, store=store, status=2)
            for name in ("", "a/b", "a@b", "a\nb", "x" * 256, "\x7f"):
                error_of("create", "--", name, "1M", store=store, status=2)
            for block_size in ("1K", "5K", "128K", "4097", "0", "8E", "1T"):
                error_of("create", "b", "1M", "--block-size", block_size, store=store, status=2)
            error_of("create", "b", "1M", "--compression", "gzip", store=store, status=2)
            for verb in (("info", "nope"), ("rm", "nope"), ("mv", "nope", "x"), ("resize", "nope", "1M"), ("du", "nope"), ("check", "nope"),
                         ("export", "nope", "-"), ("bench", "nope")):
                expect_words(error_of(*verb, store=store, status=3), "nope")
            expect_words(error_of("resize", "a", "1M", store=store, status=2), "a", "--allow-shrink")
            error_of("resize", "a", "513", store=store, status=2)
            fdb_nbd("create", "c", "1M", store=store)
            expect_words(error_of("mv", "a", "c", store=store, status=4), "c")
            error_of("mv", "a", "x/y", store=store, status=2)
            expect_equal("names", fdb_nbd("ls", "--names", store=store).stdout, "a\nc\n")


@test
def name_of_the_largest_length_and_the_largest_size_work():
    with served_store() as store:
        name = "ä" * 127 + "x"
        largest = (1 << 63) - 512
        fdb_nbd("create", name, str(largest), store=store)
        expect_equal("size", json_of("info", name, store=store)["size_bytes"], largest)
        fdb_nbd("rm", name, store=store)


@test
def name_that_is_not_utf8_is_refused():
    with own_store() as store:
        done = subprocess.run([PROGRAM.encode(), b"--store", store.encode(), b"create", b"\xff\xfe", b"1M"], capture_output=True, check=False)
        expect_equal("exit status", done.returncode, 2)
        expect("the error", b"UTF-8" in done.stderr, "one that says UTF-8", done.stderr)


@test
def usage_errors_are_status_2_and_name_the_verb():
    with own_store() as store:
        for args in ((), ("fly",), ("create",), ("create", "a"), ("create", "a", "1G", "extra"), ("ls", "--wrong"), ("info",), ("mv", "a"),
                     ("serve", "extra"), ("bench", "a", "--depth", "0"), ("import", "x"), ("import", "x", "y", "--format", "floppy")):
            line = error_of(*args, store=store, status=2)
            expect_words(line, "--help")
        expect_words(error_of("fly", store=store, status=2), "fly")


@test
def aliases_are_the_same_verbs():
    with served_store() as store:
        for name in ("a", "b"):
            fdb_nbd("create", name, "1M", store=store)
        fdb_nbd("rename", "a", "c", store=store)
        expect_equal("names", fdb_nbd("list", "--names", store=store).stdout, "b\nc\n")
        fdb_nbd("remove", "b", store=store)
        fdb_nbd("delete", "c", store=store)
        expect_equal("names", fdb_nbd("list", "--names", store=store).stdout, "")


@test
def volume_in_use_is_not_removed():
    with Server(volumes={"disk": MiB}, store="rocksdb:DIR") as server:
        with server.session() as wire:
            expect_words(error_of("rm", "disk", store=server.held_store, status=5), "disk", "in use")
            expect_equal("sessions", json_of("info", "disk", store=server.held_store)["sessions"], 1)
            wire.write(0, b"x" * 512)
            wire.disconnect()
        eventually("rm once it is free", lambda: fdb_nbd("rm", "disk", store=server.held_store, status=None).returncode == 0)


@test
def store_that_is_not_there_is_not_found_and_not_made():
    with tempfile.TemporaryDirectory(prefix="fdb-nbd-test-") as directory:
        store = f"rocksdb:{directory}/store"
        for verb in (("ls",), ("info", "a"), ("rm", "a"), ("check",), ("du",), ("status",), ("export", "a", "-")):
            expect_words(error_of(*verb, store=store, status=3), directory)
        expect_equal("the directory", os.listdir(directory), [])
        expect_words(error_of("create", "a", "1M", store=f"rocksdb:{directory}/no/store", status=3), "parent")


@test
def stores_that_cannot_be_reached_say_why():
    with tempfile.TemporaryDirectory(prefix="fdb-nbd-test-") as directory:
        os.environ["FDB_NBD_FDB_LIBRARY"] = f"{directory}/none.so"
        expect_words(error_of("ls", store="fdb:", status=7), "FoundationDB", "foundationdb-clients")
        del os.environ["FDB_NBD_FDB_LIBRARY"]
        expect_words(error_of("ls", store=f"control:{directory}/none", status=7), directory)
        path = os.path.join(directory, "dead")
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(path)
        expect_words(error_of("ls", store=f"control:{path}", status=7), path)
        expect_words(error_of("ls", store="ceph:pool", status=2), "ceph:pool", "rocksdb:")
        error_of("ls", store="", status=2)


@test
def store_and_configuration_come_from_flag_environment_and_file_in_this_order():
    with tempfile.TemporaryDirectory(prefix="fdb-nbd-test-") as directory:
        for name in ("flag", "env", "file"):
            fdb_nbd("create", name, "1M", store=f"rocksdb:{directory}/{name}")
        config = os.path.join(directory, "c.toml")
        with open(config, "w") as file:
            file.write(f'store = "rocksdb:{directory}/file"\n')

        def names(*args, **env):
            done = subprocess.run([PROGRAM, *args, "ls", "--names"], env=dict(os.environ, **env), capture_output=True, text=True, check=True)
            return done.stdout.split()

        expect_equal("flag", names("--store", f"rocksdb:{directory}/flag", FDB_NBD_STORE=f"rocksdb:{directory}/env"), ["flag"])
        expect_equal("environment", names("--config", config, FDB_NBD_STORE=f"rocksdb:{directory}/env"), ["env"])
        expect_equal("file", names("--config", config), ["file"])
        expect_equal("file by environment", names(FDB_NBD_CONFIG=config), ["file"])
        expect_equal("default directory", subprocess.run([PROGRAM, "ls"], env={"HOME": "/nonexistent", "XDG_STATE_HOME": directory},
                                                         capture_output=True, check=False).returncode in (0, 3), True)


@test
def unknown_key_in_the_file_names_its_line():
    with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
        file.write('# comment\nstore = "memory:"\nlisten_on = "x"\n')
        file.flush()
        done = tool(PROGRAM, "--config", file.name, "ls", status=2)
        expect_equal("the error", done.stderr, f'fdb-nbd: {file.name}:3: unknown key "listen_on"\n')
    expect_words(tool(PROGRAM, "--config", "/nonexistent.toml", "ls", status=3).stderr, "/nonexistent.toml")


@test
def example_configuration_has_every_key_and_is_valid():
    example = os.path.join(ROOT, "packaging", "fdb-nbd.toml")
    with open(example) as file, tempfile.NamedTemporaryFile("w", suffix=".toml") as complete:
        text = re.sub(r"^#(?=[a-z_]+ = )", "", file.read(), flags=re.MULTILINE)
        complete.write(text)
        complete.flush()
        tool(PROGRAM, "--config", complete.name, "--store", "memory:", "ls")
    with open(os.path.join(ROOT, "src", "config", "config.cc")) as source:
        keys = set(re.findall(r'^ +\{*"([a-z_]+)",\s+into<', source.read(), flags=re.MULTILINE))
    expect("keys in the source", len(keys) > 10, "all", keys)
    expect_equal("keys", keys - set(re.findall(r"^([a-z_]+) = ", text, flags=re.MULTILINE)), set())


@test(limit=180)
def thousand_volumes_are_listed_in_under_200_ms():
    requires_embedded_store()
    with served_store() as store:
        path = store.split(":", 1)[1] + "/control.sock"
        with socket.socket(socket.AF_UNIX) as control:
            control.connect(path)
            answers = control.makefile("r")
            for number in range(1000):
                control.sendall(b'{"verb":"create","name":"volume-%04d","size_bytes":1073741824}\n' % number)
                expect("the answer", answers.readline().startswith('{"result"'), "a result", number)
            started = time.monotonic()
            control.sendall(b'{"verb":"ls"}\n')
            answer = answers.readline()
            server_ms = (time.monotonic() - started) * 1000
            answers.close()
        expect_equal("volumes", answer.count('"name"'), 1000)
        times_ms = []
        for _ in range(5):
            started = time.monotonic()
            done = fdb_nbd("ls", "--json", store=store)
            times_ms.append((time.monotonic() - started) * 1000)
            expect_equal("volumes", done.stdout.count('"name"'), 1000)
        print(f"      1,000 volumes: {server_ms:.0f} ms in the server, {min(times_ms):.0f} ms for the command (bar: 200 ms)")
        expect("the command's best time", SANITIZED or min(times_ms) < 200, "under 200 ms", times_ms)


@test
def creating_the_largest_usual_disk_takes_under_50_ms_in_the_server():
    requires_embedded_store()
    with served_store() as store:
        with socket.socket(socket.AF_UNIX) as control:
            control.connect(store.split(":", 1)[1] + "/control.sock")
            answers = control.makefile("r")
            times_ms = []
            for number in range(5):
                started = time.monotonic()
                control.sendall(b'{"verb":"create","name":"v%d","size_bytes":17592186044416}\n' % number)
                expect("the answer", answers.readline().startswith('{"result"'), "a result", number)
                times_ms.append((time.monotonic() - started) * 1000)
            answers.close()
        print(f"      16 TiB volume created in {min(times_ms):.1f} to {max(times_ms):.1f} ms (bar: 50 ms)")
        expect("the best time", SANITIZED or min(times_ms) < 50, "under 50 ms", times_ms)


@test
def du_tells_size_before_and_after_compression():
    with Server(volumes={"text": 4 * MiB, "noise": 4 * MiB}, store="rocksdb:DIR") as server:
        with server.session("text") as wire:
            wire.write(0, b"the same again and again\n" * 40000)
            wire.flush()
            wire.disconnect()
        with server.session("noise") as wire:
            wire.write(0, pattern(MiB, 1))
            wire.flush()
            wire.disconnect()
        usage = {volume["name"]: volume for volume in json_of("du", store=server.held_store)["volumes"]}
        for volume in usage.values():
            expect_types("usage", volume, {"name": str, "size_bytes": int, "used_bytes": int, "stored_bytes": int, "unique_bytes": int, "shared_bytes": int,
                                          "snapshots": list})
            expect_equal("what only it has", (volume["unique_bytes"], volume["shared_bytes"]), (volume["stored_bytes"], 0))
        expect_equal("used", (usage["text"]["used_bytes"], usage["noise"]["used_bytes"]), (-(-1000000 // 4096) * 4096, MiB))
        expect("stored text", usage["text"]["stored_bytes"] < 200000, "much less than 1 MB", usage["text"])
        expect("stored noise", MiB <= usage["noise"]["stored_bytes"] < MiB * 11 // 10, "a little more than it is", usage["noise"])
        expect_equal("du of one volume", json_of("du", "text", store=server.held_store)["volumes"], [usage["text"]])
        expect_words(fdb_nbd("du", store=server.held_store).stdout, "text", "noise")
        expect_equal("used in ls", {v["name"]: v["used_bytes"] for v in json_of("ls", store=server.held_store)["volumes"]},
                     {name: v["used_bytes"] for name, v in usage.items()})


@test
def check_of_a_sound_store_finds_nothing():
    with Server(volumes={"disk": 4 * MiB}, store="rocksdb:DIR") as server:
        with server.session() as wire:
            wire.write(0, pattern(MiB, 1))
            wire.disconnect()
        report = json_of("check", store=server.held_store)
        expect_types("the report", report, {"volumes_count": int, "blocks_count": int, "findings_count": int, "mended_count": int, "findings": list})
        expect_equal("the report", report, {"volumes_count": 1, "blocks_count": 256, "findings_count": 0, "mended_count": 0, "findings": []})
        expect_words(fdb_nbd("check", "disk", store=server.held_store).stdout, "all is well")
        expect_words(fdb_nbd("check", "--repair", store=server.held_store).stdout, "all is well\n")
        error_of("check", "disk", "--repair", store=server.held_store, status=2)


@test
def progress_of_a_server_is_told_at_sigusr1_also_while_it_says_nothing():
    """The server is this test, which is as slow as it wants to be."""
    with tempfile.TemporaryDirectory(prefix="fdb-nbd-test-") as directory, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{directory}/sock")
        listener.listen()
        with subprocess.Popen([PROGRAM, "--store", f"control:{directory}/sock", "check"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            control, _ = listener.accept()
            with control, control.makefile("rw") as lines:
                def say(**message):
                    lines.write(json.dumps(message) + "\n")
                    lines.flush()

                def progress():
                    process.send_signal(signal.SIGUSR1)
                    return process.stderr.readline()

                lines.readline()
                say(result={"schema": 1, "pid": 1, "version": "0", "store": "memory:"})
                expect_equal("the request", json.loads(lines.readline())["verb"], "check")
                expect_words(progress(), "Checking: 0 B")
                say(progress={"done_bytes": MiB, "total_bytes": 4 * MiB})
                eventually("the progress", lambda: "Checking: 1 MiB of 4 MiB, " in progress())
                expect_words(progress(), "Checking: 1 MiB of 4 MiB, ")
                say(result={"schema": 1, "volumes_count": 1, "blocks_count": 2, "findings_count": 0, "mended_count": 0, "findings": []})
                expect_equal("exit status", process.wait(20), 0)
                expect_equal("what it says", process.stdout.read(), "1 volumes, 2 blocks: all is well\n")


@test
def status_tells_of_the_server():
    with Server(volumes={"disk": MiB}, store="rocksdb:DIR") as server:
        with server.session() as wire:
            status = json_of("status", store=server.held_store)
            wire.disconnect()
        expect_types("status", status, {"pid": int, "version": str, "store": str, "engine": str, "started": str, "uptime_s": int, "listen": list,
                                        "control": str, "volumes": int, "volumes_open": int, "sessions": int, "requests_in_flight": int,
                                        "bytes_in_flight": int, "store_bytes": int, "memory_bound_bytes": int})
        expect_equal("pid", status["pid"], server.process.pid)
        expect_equal("store", status["store"], server.store)
        expect_equal("engine", status["engine"], "fdb" if server.is_in_cluster else "rocksdb")
        expect_equal("listen", status["listen"], [f"tcp://127.0.0.1:{server.port}", f"unix:{server.socket_path}"])
        expect_equal("volumes, open, sessions", (status["volumes"], status["volumes_open"], status["sessions"]), (1, 1, 1))
        expect("started", RFC3339.match(status["started"]), "RFC 3339", status["started"])
        expect_words(fdb_nbd("status", store=server.held_store).stdout, str(server.process.pid), server.store)
    with own_store() as store:
        fdb_nbd("create", "a", "1M", store=store)
        expect_equal("listen", json_of("status", store=store)["listen"], [])
        expect_words(fdb_nbd("status", store=store).stdout, "none is running")


@test
def version_help_and_completion_need_no_store():
    version = tool(PROGRAM, "version").stdout
    expect_equal("version", (version, tool(PROGRAM, "--version").stdout), (version, version))
    expect_equal("version", json.loads(tool(PROGRAM, "version", "--json").stdout)["version"], version.split()[1])
    verbs = ("serve", "create", "ls", "info", "resize", "rm", "mv", "import", "export", "du", "check", "status", "attach", "detach", "bench", "trash", "label", "quota", "group", "version", "completion")
    expect_words(tool(PROGRAM, "--help").stdout, *verbs)
    expect_equal("help", tool(PROGRAM, "help").stdout, tool(PROGRAM, "--help").stdout)
    for verb in verbs:
        text = tool(PROGRAM, verb, "--help").stdout
        expect_equal(f"help of {verb}", tool(PROGRAM, "help", verb).stdout.splitlines()[0], text.splitlines()[0])
    for shell in ("bash", "zsh", "fish"):
        expect_words(tool(PROGRAM, "completion", shell).stdout, "__complete")
    expect_words(tool(PROGRAM, "__complete", "words", "").stdout, *verbs)
    expect_words(tool(PROGRAM, "completion", "tcsh", status=2).stderr, "tcsh")


@test
def verbs_below_verbs_have_help_of_their_own():
    for above, below in (("trash", ("ls", "restore", "purge")), ("lock", ("ls", "break")), ("label", ("set", "rm", "ls")), ("quota", ("set",)),
                         ("group", ("create", "rm", "add", "remove", "snap", "rollback", "ls"))):
        expect_words(tool(PROGRAM, "help", above).stdout, f"fdb-nbd {above}", *below)
        expect_words(error_of(above, store="memory:", status=2), f"fdb-nbd {above} --help")
        expect_words(error_of(above, "fly", store="memory:", status=2), f'"{above} fly"', f"fdb-nbd {above} --help")
        for verb in below:
            text = tool(PROGRAM, "help", above, verb).stdout
            expect_words(text, f"Usage: fdb-nbd {above} {verb}")
            expect_equal(f"help of {above} {verb}", text, tool(PROGRAM, above, verb, "--help").stdout)
            expect_words(error_of(above, verb, "--fly", store="memory:", status=2), f"fdb-nbd {above} {verb} --help")
    expect_words(tool(PROGRAM, "help", "trash", "fly", status=2).stderr, '"trash fly"', "fdb-nbd help trash")
    expect_words(tool(PROGRAM, "help", "fly", status=2).stderr, '"fly"', "`fdb-nbd help`")


@test
def full_output_device_is_an_error():
    with memory_server() as store:
        with open("/dev/full", "w") as full:
            done = subprocess.run([PROGRAM, "--store", store, "ls"], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
        expect_equal("exit status", done.returncode, 1)
        expect_words(done.stderr, "stdout", "No space")
        with open("/dev/full", "w") as full:
            for args, status in ((("info", "nope"), 3), (("fly",), 2)):
                done = subprocess.run([PROGRAM, "--store", store, *args], stderr=full, check=False)
                expect_equal("exit status without a place for errors", done.returncode, status)


if __name__ == "__main__":
    main()
