#!/usr/bin/python3
"""serve as its operator meets it: what it prints, refuses, reloads, and how others find it."""

import os
import signal
import socket
import stat
import subprocess
import tempfile
import threading
import time

from cli_lib import *   # noqa: F403
from cli_lib import Server, main, test


@test
def second_server_on_a_store_is_told_who_holds_it():
    requires_embedded_store()
    with Server(volumes={"disk": MiB}, store="rocksdb:DIR") as server:
        line = error_of("serve", "--listen", "tcp://127.0.0.1:0", store=server.store, status=5)
        expect_words(line, f"pid {server.process.pid}", server.store.split(":", 1)[1])
        server.check_serves()
        expect_equal("names", fdb_nbd("ls", "--names", store=server.store).stdout, "disk\n")


@test
def control_socket_is_for_the_owner_alone_and_goes_with_the_server():
    requires_embedded_store()
    with Server(volumes={}, store="rocksdb:DIR") as server:
        path = server.store.split(":", 1)[1] + "/control.sock"
        expect_equal("mode", stat.filemode(os.stat(path).st_mode), "srw-------")
        server.stop()
        expect("the socket", not os.path.exists(path), "gone", path)
        server.start()
        server.kill()
        expect("the socket after a kill", os.path.exists(path), "left", path)
        expect_equal("ls beside the dead socket", fdb_nbd("ls", store=server.store).returncode, 0)
        server.start()
        expect_equal("pid", json_of("status", store=server.store)["pid"], server.process.pid)


@test
def verbs_work_while_servers_come_and_go():
    """A command that looks while a server starts or stops waits for it; it never fails for that."""
    requires_embedded_store()
    with tempfile.TemporaryDirectory(prefix="fdb-nbd-test-") as directory:
        store = f"rocksdb:{directory}/store"
        fdb_nbd("create", "disk", "1M", store=store)
        stop = threading.Event()
        failures, counts = [], []

        def ask():
            count = 0
            while not stop.is_set():
                done = subprocess.run([PROGRAM, "--store", store, "ls", "--names"], capture_output=True, text=True, check=False)
                count += 1
                if done.returncode != 0 or done.stdout != "disk\n":
                    failures.append((done.returncode, done.stderr))
            counts.append(count)

        asking = threading.Thread(target=ask)
        asking.start()
        try:
            for _ in range(8):
                while True:   # the store is held for a moment by a command
                    try:
                        server = Server(volumes={}, store=store, tcp=False)
                        break
                    except Failure:
                        for one in list(Server.running):
                            one.remove()
                        time.sleep(0.01)
                time.sleep(0.05)
                server.stop()
                server.remove()
        finally:
            stop.set()
            asking.join()
        print(f"      {counts[0]} commands")
        expect_equal("failed commands", failures, [])


@test
def first_volume_is_made_only_in_an_empty_store():
    with own_store() as store:
        for _ in range(2):
            with Server(volumes={}, store=store, args=["--first-volume", "example=1G"]):
                expect_equal("names", fdb_nbd("ls", "--names", store=store).stdout, "example\n")
        fdb_nbd("mv", "example", "mine", store=store)
        with Server(volumes={}, store=store, args=["--first-volume", "example=1G"]):
            expect_equal("names", fdb_nbd("ls", "--names", store=store).stdout, "mine\n")


@test
def volume_flag_makes_what_is_missing_and_keeps_what_is_there():
    with own_store() as store:
        fdb_nbd("create", "a", "2M", store=store)
        with Server(volumes={"a": MiB, "b": MiB}, store=store):
            expect_equal("sizes", {v["name"]: v["size_bytes"] for v in json_of("ls", store=store)["volumes"]}, {"a": 2 * MiB, "b": MiB})
    with own_store() as store:
        expect_words(error_of("serve", "--volume", "a/b=1M", "--listen", "tcp://127.0.0.1:0", store=store, status=2), "a/b")
        expect_words(error_of("serve", "--volume", "a=100", "--listen", "tcp://127.0.0.1:0", store=store, status=2), "512")
        error_of("serve", "--volume", "a", "--listen", "tcp://127.0.0.1:0", store=store, status=2)


@test
def what_serve_cannot_do_is_refused_with_a_reason():
    with memory_server() as held:
        expect_words(error_of("serve", store=held, status=2), "control:")
    with own_store() as store:
        for tls in ("on", "require"):
            expect_words(error_of("serve", "--tls", tls, store=store, status=1), "not available yet")
        expect_words(error_of("serve", "--listen", "tcp://0.0.0.0:0", store=store, status=1), "--insecure")
        expect_words(error_of("serve", "--log-level", "loud", store=store, status=2), "loud")
        expect_words(error_of("serve", "--memory", "1M", store=store, status=2), "MiB")
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            expect_words(error_of("serve", "--listen", f"tcp://127.0.0.1:{port}", store=store, status=5), str(port), "in use")


@test
def store_that_cannot_be_written_is_refused():
    requires_embedded_store()
    if os.geteuid() == 0:
        requires("setpriv")
    with tempfile.TemporaryDirectory(prefix="fdb-nbd-test-") as directory:
        os.chmod(directory, 0o555)
        as_nobody = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"] if os.geteuid() == 0 else []
        done = tool(*as_nobody, PROGRAM, "--store", f"rocksdb:{directory}/store", "serve", "--listen", "tcp://127.0.0.1:0", status=None)
        os.chmod(directory, 0o755)
        if as_nobody and "Permission denied" in done.stderr and PROGRAM in done.stderr:
            raise Skip("another user cannot run the program here")
        expect_equal("exit status", done.returncode, 1)
        expect_words(done.stderr, directory, "Permission denied")


@test
def hints_name_the_address_in_use():
    with Server(volumes={"disk": MiB}, args=["--hints"]) as server:
        with open(os.path.join(server.directory, "out")) as out:
            expect_words(out.read(), f"nbdinfo --list nbd://127.0.0.1:{server.port}", "nbd-client -N", "qemu-system")


@test
def reload_takes_the_log_level_and_names_what_it_cannot_take():
    with tempfile.TemporaryDirectory(prefix="fdb-nbd-test-") as directory:
        config = f"{directory}/c.toml"
        with open(config, "w") as file:
            file.write('log_level = "error"\n')
        os.environ["FDB_NBD_CONFIG"] = config
        try:
            with Server(volumes={"disk": MiB}) as server:
                with open(config, "w") as file:
                    file.write('log_level = "info"\nio_threads = 3\nread_only = true\n')
                for times in (1, 2):
                    server.process.send_signal(signal.SIGHUP)
                    eventually("the reload", lambda: server.log_tail().count("configuration reloaded") == times)
                    expect_equal("lines", server.log_tail().count("changed at the next start only: read_only, io_threads\n"), times)
                for text, words in (("nonsense = 1\n", 'unknown key "nonsense"'), ('[limits]\nconnection_in_flight_bytes = "1M"\n', "32 MiB")):
                    with open(config, "w") as file:
                        file.write(text)
                    server.process.send_signal(signal.SIGHUP)
                    eventually("the error", lambda: words in server.log_tail())
                    expect_words(server.log_tail(), "nothing reloaded")
                server.check_serves()
        finally:
            del os.environ["FDB_NBD_CONFIG"]


@test(limit=120)
def reload_changes_what_it_can_and_no_client_notices():
    with tempfile.TemporaryDirectory(prefix="fdb-nbd-test-") as directory:
        config, first, second = (f"{directory}/{name}" for name in ("c.toml", "first.sock", "second.sock"))

        def configure(text):
            with open(config, "w") as file:
                file.write(text)

        def reload_is(words):
            count = server.log_tail(100).count(words)
            server.process.send_signal(signal.SIGHUP)
            eventually("the reload", lambda: server.log_tail(100).count(words) > count)

        configure(f'listen = "unix:{first}"\n')
        with Server(volumes={"disk": MiB}, store="rocksdb:DIR", tcp=False, unix=False, args=["--config", config]) as server:
            store = server.held_store
            eventually("the server listens", lambda: os.path.exists(first))
            server.socket_path, server.unix = first, True
            wire = server.session("disk")
            wire.write(0, b"a" * 4096)
            expect_equal("listen", json_of("status", store=store)["listen"], [f"unix:{first}"])
            configure(f'listen = "unix:{second}"\nvolumes = ["more=1M"]\n\n[limits]\nconnections = 2\n\n[trash]\nretention_s = 5\n')
            reload_is("configuration reloaded")
            expect_equal("listen", json_of("status", store=store)["listen"], [f"unix:{second}"])
            expect("the first socket", not os.path.exists(first), "gone", first)
            expect_equal("volumes", fdb_nbd("ls", "--names", store=store).stdout, "disk\nmore\n")
            server.socket_path = second
            with server.session("more") as other:
                with server.connect() as one_too_many:
                    one_too_many.expect_closed("one connection more")
                other.disconnect()
            fdb_nbd("rm", "more", store=store)
            eventually("the trash is purged", lambda: json_of("trash", "ls", store=store)["volumes"] == [], within=20)
            configure(f'listen = ["unix:{second}", "unix:{directory}/none/x.sock"]\n')
            reload_is("not all of the configuration reloaded")
            expect_words(server.log_tail(), f"{directory}/none")
            configure(f'listen = ["unix:{second}", "tcp://not a host:1"]\n')
            reload_is("not all of the configuration reloaded")
            expect_words(server.log_tail(), "cannot find the host of tcp://not a host:1")
            expect_equal("listen", json_of("status", store=store)["listen"], [f"unix:{second}"])
            expect_equal("what is read", wire.read(0, 4096), b"a" * 4096)
            wire.disconnect()
            server.check_serves()


@test
def configuration_file_sets_what_flags_do_not():
    requires_embedded_store()
    with tempfile.TemporaryDirectory(prefix="fdb-nbd-test-") as directory:
        config = f"{directory}/c.toml"
        with open(config, "w") as file:
            file.write(f'store = "rocksdb:{directory}/store"\nlisten = "unix:{directory}/nbd.sock"\nvolumes = ["a=1M", "b=2M"]\n'
                       f'control = "{directory}/c.sock"\n\n[limits]\nin_flight_bytes = "200M"\n\n[memory]\nstore_bytes = "128M"\n')
        with subprocess.Popen([PROGRAM, "--config", config, "serve"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
            try:
                expect_equal("the first line", process.stdout.readline(), f"listening on unix:{directory}/nbd.sock\n")
                status = json_of("status", store=f"control:{directory}/c.sock")
                expect("memory bound", 328 * MiB <= status["memory_bound_bytes"] < 420 * MiB, "200 + 128 MiB and a little", status["memory_bound_bytes"])
                expect_equal("volumes", status["volumes"], 2)
            finally:
                process.terminate()
                expect_equal("exit status", process.wait(20), 0)


@test
def service_manager_hears_of_ready_and_stopping():
    with tempfile.TemporaryDirectory(prefix="fdb-nbd-test-") as directory, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"{directory}/notify")
        manager.settimeout(20)
        os.environ["NOTIFY_SOCKET"] = f"{directory}/notify"
        try:
            with Server(volumes={"disk": MiB}) as server:
                expect_words(manager.recv(1000).decode(), "READY=1")
                server.check_serves()
                server.process.send_signal(signal.SIGTERM)
                expect_words(manager.recv(1000).decode(), "STOPPING=1")
        finally:
            del os.environ["NOTIFY_SOCKET"]


@test
def hostile_control_clients_hurt_nobody():
    with Server(volumes={"disk": MiB}, store="rocksdb:DIR") as server:
        path = server.control_path

        def connect():
            control = socket.socket(socket.AF_UNIX)
            control.settimeout(10)
            control.connect(path)
            return control

        with connect() as control:
            for junk in (b"\n", b"junk\n", b"[]\n", b"{}\n", b'{"verb":"rm"}\n', b"\xff\x00\xfe\n", b'{"verb":"ls","x":1}\n', b"[" * 100000 + b"\n",
                         b"x" * (2 * MiB) + b"\n"):
                control.sendall(junk)
                answer = b""
                while not answer.endswith(b"\n"):
                    part = control.recv(65536)
                    expect("the connection", part, "open", junk[:40])
                    answer += part
                expect("the answer", answer.startswith(b'{"error":{"code":'), "one error", (junk[:40], answer[:200]))
                expect_equal("answers", answer.count(b"\n"), 1)
            control.sendall(b'{"verb":"hello"}\n')
            expect("the answer", control.recv(65536).startswith(b'{"result"'), "a result", "")
        idle = [connect() for _ in range(64)]
        with connect() as one_more:
            expect("the answer to one more", b'"busy"' in one_more.recv(65536), "busy", "")
        expect_words(error_of("ls", store=server.held_store, status=5), "too many")
        server.check_serves()
        for control in idle:
            control.close()
        eventually("ls once they are gone", lambda: fdb_nbd("ls", store=server.held_store, status=None).returncode == 0)
        for _ in range(20):
            with connect() as control:
                control.sendall(b'{"verb":"check"}\n{"verb":"nbd"}\n')
        server.check_serves()


if __name__ == "__main__":
    main()
