#!/usr/bin/python3
"""How a server is reached: TCP over IPv4 and IPv6, Unix sockets, standard input and output, sockets passed by systemd."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

from lib import *   # noqa: F403
from lib import Server, Wire, main, test


def use(wire, size=MiB):
    """A short session on the volume `disk`."""
    wire.start()
    wire.go("disk")
    expect_equal("size", wire.size, size)
    wire.write(4096, pattern(4096, 1))
    expect_data("READ", wire.read(4096, 4096), pattern(4096, 1))
    wire.disconnect()


def serve(*arguments, store="memory:", status, timeout=20):
    """A server that must not start."""
    return tool(PROGRAM, "--store", store, "serve", *arguments, status=status, timeout=timeout)


def has_ipv6():
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


@test
def tcp_and_unix_serve_the_same_volume():
    requires_fdb_nbd()
    with Server(volumes={"disk": MiB}) as server:
        use(server.connect(tcp=True))
        use(server.connect(tcp=False))
        with server.session(tcp=True) as wire:
            expect_data("READ over TCP of what came over the Unix socket", wire.read(4096, 4096), pattern(4096, 1))


@test
def tcp_over_ipv6_works():
    requires_fdb_nbd()
    if not has_ipv6():
        raise Skip("no IPv6 loopback here")
    with Server(volumes={"disk": MiB}, tcp=False, args=["--listen", "tcp://[::1]:0"]) as server:
        line = eventually("the line `listening on tcp://[::1]:PORT`", lambda: [x for x in open(os.path.join(server.directory, "out")) if "[::1]:" in x])
        use(Wire(("::1", int(line[0].rsplit(":", 1)[1]))))


@test
def tcp_connections_have_keepalive():
    requires_fdb_nbd()
    with Server(volumes={"disk": MiB}) as server, server.session(tcp=True):
        def timers():
            with open("/proc/net/tcp") as file:
                rows = [line.split() for line in file.readlines()[1:]]
            established, local = "01", f"0100007F:{server.port:04X}"
            return [row[5].split(":")[0] for row in rows if row[1] == local and row[3] == established]
        eventually("a keepalive timer (02) on the server's side, in /proc/net/tcp", lambda: timers() == ["02"])


@test
def several_listeners_of_a_kind_work():
    requires_fdb_nbd()
    with Server(volumes={"disk": MiB}, args=["--listen", "tcp://127.0.0.1:0"]) as server:
        def ports():
            lines = open(os.path.join(server.directory, "out")).read().split()
            found = [int(x.rsplit(":", 1)[1]) for x in lines if x.startswith("tcp://")]
            return found if len(found) == 2 else None
        for port in eventually("two TCP listeners", ports):
            use(Wire(("127.0.0.1", port)))


@test
def unix_socket_is_removed_on_sigterm():
    requires_fdb_nbd()
    with Server(volumes={"disk": MiB}) as server:
        server.stop()
        expect("the socket file", not os.path.exists(server.socket_path), "gone", "still there")


@test
def unix_socket_in_use_is_not_taken_over():
    requires_fdb_nbd()
    with Server(volumes={"disk": MiB}) as server:
        done = serve("--listen", f"unix:{server.socket_path}", status=5)
        expect("the error", server.socket_path in done.stderr, "one that names the socket", done.stderr)
        use(server.connect(tcp=False))


@test
def unix_socket_over_a_file_is_refused_and_the_file_kept():
    requires_fdb_nbd()
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "precious")
        with open(path, "w") as file:
            file.write("data")
        serve("--listen", f"unix:{path}", status=4)
        with open(path) as file:
            expect_equal("the file", file.read(), "data")


@test
def port_in_use_is_a_clear_error():
    requires_fdb_nbd()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = serve("--listen", f"tcp://127.0.0.1:{port}", status=5)
        expect("the error", str(port) in done.stderr and "in use" in done.stderr, "one that names the port", done.stderr)


@test
def address_that_is_none_is_refused():
    requires_fdb_nbd()
    for address in ("tcp://127.0.0.1:65536", "tcp://127.0.0.1:x", "tcp://", "unix:", "udp://127.0.0.1:1", "127.0.0.1", "unix:" + "/x" * 200):
        done = serve("--listen", address, status=None)
        expect(f"exit status for --listen {address}", done.returncode in (1, 2) and done.stderr, "1 or 2, and an error", (done.returncode, done.stderr))


@test
def not_loopback_without_tls_is_refused():
    requires_fdb_nbd()
    done = serve("--listen", "tcp://0.0.0.0:0", status=None)
    expect("exit status", done.returncode in (1, 2), "1 or 2", done.returncode)
    expect("the error", "--insecure" in done.stderr, "one that names --insecure", done.stderr)


@test
def stdio_serves_one_session():
    requires_fdb_nbd()
    for tidy in (True, False):
        ours, theirs = socket.socketpair()
        with ours, tempfile.TemporaryFile() as log:
            process = subprocess.Popen([PROGRAM, "--store", "memory:", "serve", "--stdio", "--volume", "disk=1M"], stdin=theirs, stdout=theirs, stderr=log)
            theirs.close()
            wire = Wire(ours)
            wire.start()
            wire.go("disk")
            wire.write(0, b"stdio" * 100)
            expect_data("READ", wire.read(0, 500), b"stdio" * 100)
            if tidy:
                wire.disconnect()
            else:
                wire.close()
            expect_equal("exit status", process.wait(10), 0)


@test
def stdio_works_with_pipes():
    requires_fdb_nbd()
    code = ('h.connect_command(["' + PROGRAM + '", "--store", "memory:", "serve", "--stdio", "--volume", "disk=1M"])\n'
            'h.pwrite(b"x" * 4096, 0)\nassert h.pread(4096, 0) == b"x" * 4096\nh.shutdown()\n')
    tool("nbdsh", "-c", "h.set_export_name('disk')", "-c", code)
    process = subprocess.Popen([PROGRAM, "--store", "memory:", "serve", "--stdio", "--volume", "disk=1M"], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    session = (b"\0\0\0\3" + option_bytes(OPT_GO, go_data("disk")) + request_bytes(CMD_WRITE, 0, 512, 0, 1, b"p" * 512)
               + request_bytes(CMD_DISC))
    out, _ = process.communicate(session, timeout=20)
    expect_equal("exit status", process.returncode, 0)
    expect_equal("the last reply", out[-16:].hex(), request_reply(1).hex())


def request_reply(cookie):
    return SIMPLE_REPLY_MAGIC.to_bytes(4, "big") + bytes(4) + cookie.to_bytes(8, "big")


# Becomes the server, as systemd would start it: sockets from descriptor 3 on, LISTEN_PID its own process.
TRAMPOLINE = """
import os, sys
count = int(os.environ["LISTEN_FDS"])
sockets = [os.dup(os.dup2(int(fd), 100 + n)) for n, fd in enumerate(sys.argv[1:1 + count])]
for n, fd in enumerate(sockets):
    os.dup2(fd, 200 + n)
for n in range(count):
    os.dup2(200 + n, 3 + n)
os.closerange(3 + count, 300)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.argv[1 + count], sys.argv[1 + count:])
"""


def activated(listeners):
    """A server that gets `listeners` as systemd passes them, and its log's directory."""
    directory = tempfile.mkdtemp(prefix="fdb-nbd-test-")
    descriptors = [listener.fileno() for listener in listeners]
    command = [sys.executable, "-c", TRAMPOLINE, *map(str, descriptors), PROGRAM, "--store", "memory:", "serve", "--volume", "disk=1M"]
    with open(os.path.join(directory, "log"), "w") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=descriptors,
                                   env=dict(os.environ, LISTEN_FDS=str(len(listeners))))
    return process, directory


def end(process, directory):
    process.send_signal(signal.SIGTERM)
    try:
        expect_equal("exit status after SIGTERM", process.wait(20), 0)
    finally:
        process.kill()
        shutil.rmtree(directory, ignore_errors=True)


@test
def systemd_sockets_are_served():
    requires_fdb_nbd()
    with tempfile.TemporaryDirectory() as where, socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as unix:
        path = os.path.join(where, "sock")
        unix.bind(path)
        unix.listen(16)
        process, directory = activated([tcp, unix])
        try:
            use(Wire(tcp.getsockname()))
            use(Wire(path))
        finally:
            end(process, directory)
        expect("the socket of systemd", os.path.exists(path), "left alone", "removed")


@test
def systemd_socket_activation_works_for_libnbd():
    requires_fdb_nbd()
    code = ('h.connect_systemd_socket_activation(["' + PROGRAM + '", "--store", "memory:", "serve", "--volume", "disk=1M"])\n'
            'h.pwrite(b"x" * 4096, 0)\nassert h.pread(4096, 0) == b"x" * 4096\nh.shutdown()\n')
    tool("nbdsh", "-c", "h.set_export_name('disk')", "-c", code)


@test
def volumes_made_and_removed_while_serving_are_seen_at_once():
    requires_fdb_nbd()
    with Server(volumes={"disk": MiB}, store="rocksdb:DIR") as server:
        fdb_nbd("create", "second", "2M", store=server.store)
        with server.connect() as wire:
            wire.start()
            expect_equal("LIST", set(wire.list_exports()), {"disk", "second"})
            expect_equal("size", wire.go("second").size, 2 * MiB)
        fdb_nbd("resize", "second", "4M", store=server.store)
        with server.session("second") as wire:
            expect_equal("size after resize", wire.size, 4 * MiB)
            wire.write(4 * MiB - 512, b"e" * 512)
            wire.disconnect()
        fdb_nbd("mv", "second", "third", store=server.store)
        with server.connect() as wire:
            wire.start()
            expect_equal("LIST after mv", set(wire.list_exports()), {"disk", "third"})
        fdb_nbd("rm", "third", store=server.store)
        with server.connect() as wire:
            wire.start()
            expect_equal("LIST after rm", set(wire.list_exports()), {"disk"})


@test
def listening_lines_come_only_once_clients_can_connect():
    requires_fdb_nbd()
    for _ in range(5):
        with Server(volumes={"disk": MiB}) as server:
            started = time.monotonic()
            use(server.connect(tcp=True))
            expect_quick("the first session", started, 2)


if __name__ == "__main__":
    main()
