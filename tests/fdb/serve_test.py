#!/usr/bin/python3
"""The program on `fdb:` stores, with the fake client library of tests/fakes and without any."""

import os
import pathlib
import signal
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "cli"))

from cli_lib import *   # noqa: F403,E402
from cli_lib import MiB, Server, error_of, eventually, expect, expect_data, expect_equal, expect_words, fdb_nbd, main, pattern, test   # noqa: E402

FAKE = os.environ["FDB_NBD_TEST_FAKE_FDB"]


def use_library(path):
    os.environ["FDB_NBD_FDB_LIBRARY"] = path


@test
def without_the_library_one_line_says_what_to_install():
    use_library("/nonexistent/libfdb_c.so")
    expect_words(error_of("ls", store="fdb:", status=7), "foundationdb-clients", "/nonexistent/libfdb_c.so")


@test
def a_library_that_is_too_old_is_refused():
    use_library(FAKE)
    os.environ["FAKE_FDB_MAX_API_VERSION"] = "630"
    try:
        expect_words(error_of("ls", store="fdb:", status=7), "too old", "630")
    finally:
        del os.environ["FAKE_FDB_MAX_API_VERSION"]


@test
def a_missing_cluster_file_is_named():
    use_library(FAKE)
    expect_words(error_of("ls", store="fdb:/missing/fdb.cluster", status=7), "/missing/fdb.cluster")


@test
def options_of_the_client_are_checked():
    use_library(FAKE)
    expect_words(error_of("ls", store="fdb:?no_such_option=1", status=2), "no_such_option")
    expect_equal("with good ones", fdb_nbd("ls", "--names", store="fdb:?knob=a=1&prefix=here").stdout, "")


def configured(directory, text):
    path = f"{directory}/fdb-nbd.toml"
    pathlib.Path(path).write_text(text)
    return ["--config", path]


@test
def the_client_is_set_up_by_the_file_then_the_environment_then_the_url():
    use_library("/from/environment.so")
    with tempfile.TemporaryDirectory(prefix="fdb-nbd-test-") as directory:
        taken = pathlib.Path(directory) / "options"
        file = configured(directory, f"""
            [fdb]
            library = "{FAKE}"
            tls_password = "secret"
            tls_ca_path = "/file/ca"
            tls_key_path = "/file/key"
            trace_enable = "/file/trace"
            client_threads_per_version = 3
            knobs = {{ a = 1, b = 1 }}
            options = {{ disable_local_client = true }}
        """)
        expect_words(error_of("ls", *file, store="fdb:", status=7), "/from/environment.so")
        del os.environ["FDB_NBD_FDB_LIBRARY"]
        os.environ.update({"FAKE_FDB_OPTIONS": str(taken), "FDB_TLS_KEY_FILE": "/environment/key"})
        try:
            fdb_nbd("ls", *file, store="fdb:?trace_enable=/url/trace&knob=b=2")
        finally:
            del os.environ["FAKE_FDB_OPTIONS"], os.environ["FDB_TLS_KEY_FILE"]
        expect_equal("options that the library got", sorted(taken.read_bytes().split(b"\n"))[1:], sorted(
            [b"65 \3\0\0\0\0\0\0\0", b"64 ", b"40 a=1", b"53 /file/ca", b"54 secret", b"30 /url/trace", b"40 b=2"]))


@test
def a_wrong_key_is_named_with_its_line_and_a_password_is_never_shown():
    use_library(FAKE)
    with tempfile.TemporaryDirectory(prefix="fdb-nbd-test-") as directory:
        file = configured(directory, '[fdb]\ntls_ca = "/x"\n')
        expect_words(error_of("ls", *file, store="fdb:", status=2), "fdb-nbd.toml:2", "fdb.tls_ca")
        file = configured(directory, '[fdb]\noptions = { no_such_option = 1 }\n')
        expect_words(error_of("ls", *file, store="fdb:", status=2), "no_such_option")
        file = configured(directory, '[fdb]\ntls_password = "refused"\n')
        line = error_of("ls", *file, store="fdb:", status=2)
        expect_words(line, "tls_password")
        expect("the error", "refused" not in line, "no password", line)

        control = f"{directory}/control.sock"
        file = configured(directory, 'log_level = "debug"\n[fdb]\ntls_password = "secret word"\n')
        with Server(volumes={}, store="fdb:?tls_password=another+secret", tcp=False, args=[*file, "--control", control]) as server:
            shown = fdb_nbd("status", store=f"control:{control}").stdout + fdb_nbd("status", "--json", store=f"control:{control}").stdout
            configured(directory, 'log_level = "debug"\n[fdb]\ntls_password = "new secret"\n')
            server.process.send_signal(signal.SIGHUP)
            eventually("reloading", lambda: "reloaded" in server.log_tail())
            expect_words(server.log_tail(), "changed at the next start only: fdb")
            for text in (shown, pathlib.Path(server.log_path).read_text()):
                expect("status and log", "secret" not in text, "no password", text)


@test(limit=120)
def a_server_keeps_what_is_written_and_stops_in_order():
    use_library(FAKE)
    with tempfile.TemporaryDirectory(prefix="fdb-nbd-test-") as directory:
        root = pathlib.Path(directory)
        control = f"{root}/control.sock"
        data = pattern(9 * MiB + 1536, 5)
        (root / "in").write_bytes(data)
        with Server(volumes={}, store="fdb:?prefix=test", tcp=False, args=["--control", control]):
            store = f"control:{control}"
            fdb_nbd("import", f"{root}/in", "a", "--format", "raw", store=store)
            fdb_nbd("mv", "a", "b", store=store)
            fdb_nbd("export", "b", f"{root}/out", store=store)
            expect_data("what comes back", (root / "out").read_bytes()[:len(data)], data)
            fdb_nbd("check", store=store)
            fdb_nbd("rm", "b", store=store)
            expect("the list", fdb_nbd("ls", "--names", store=store).stdout == "", "empty", "something")


if __name__ == "__main__":
    main()
