"""What every test here uses: servers, tools, and the runner.

A test is a function marked @test; its name states one behaviour. A file ends with `main()`.

    FDB_NBD=build/release/fdb-nbd tests/integration/protocol_options_test.py              # all of a file
    FDB_NBD=build/release/fdb-nbd tests/integration/protocol_options_test.py 'name_*'     # some
    FDB_NBD=… tests/fdb/with_cluster.py tests/integration/protocol_options_test.py        # the same over FoundationDB
    FDB_NBD_PEER=nbdkit tests/integration/protocol_options_test.py                        # the same from another server

The last form checks the tests themselves against nbdkit or qemu-nbd. Those fail where they depart from the protocol.
"""

import fnmatch
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback

from nbdwire import *   # noqa: F401,F403  (the wire client is part of this library's interface)
from nbdwire import Failure, Wire

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PROGRAM = os.environ.get("FDB_NBD") or os.path.join(ROOT, "build", "release", "fdb-nbd")
PEER = os.environ.get("FDB_NBD_PEER", "")
CLUSTER_FILE = os.environ.get("FDB_NBD_TEST_CLUSTER_FILE", "")   # where set, the stores of servers are in this FoundationDB
SANITIZED = bool(os.environ.get("FDB_NBD_SANITIZED"))   # the program carries a sanitizer: slow, and with other memory
# FoundationDB's client library misbehaves on purpose (tests/fdb/with_cluster.py --buggify), which takes time, too.
BUGGIFIED = "FDB_NETWORK_OPTION_CLIENT_BUGGIFY_ENABLE" in os.environ
SLOWNESS = 10 if SANITIZED or BUGGIFIED else 1
SKIP = 77

KiB, MiB, GiB, TiB = 1 << 10, 1 << 20, 1 << 30, 1 << 40


class Skip(Exception):
    """The reason why a test cannot run here."""


def requires(*programs):
    """Skips the test where one of the programs is not installed."""
    for program in programs:
        if not shutil.which(program, path=tool_path()):
            raise Skip(f"{program} is not installed")


def requires_fdb_nbd():
    """Skips a test of something that only fdb-nbd has while a peer is being tested."""
    if PEER:
        raise Skip(f"not a feature of {PEER}")


def requires_embedded_store():
    """Skips a test of what only a store in a directory has."""
    requires_fdb_nbd()
    if CLUSTER_FILE:
        raise Skip("about an embedded store")


def expect_memory(what, got, limit):
    """`got` bytes of resident memory are less than `limit`; says nothing about a program with a sanitizer."""
    expect(what, SANITIZED or got < limit, f"less than {limit // MiB} MiB", f"{got / MiB:.1f} MiB")


def expect_quick(what, started, seconds):
    """Not more than `seconds` have passed since `started`."""
    took = time.monotonic() - started
    expect(what, took < seconds * SLOWNESS, f"under {seconds * SLOWNESS} s", f"{took:.2f} s")


def raise_file_limit(wanted):
    """Lets this process and its children open `wanted` files; skips where the system does not."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(hard, wanted)))
        except (ValueError, PermissionError):
            raise Skip(f"needs {wanted} open files, {hard} allowed") from None


# -- expectations ---------------------------------------------------------------------------------


def expect_equal(what, got, expected):
    if got != expected:
        raise Failure(what, shorten(expected), shorten(got))


def expect(what, condition, expected, got):
    if not condition:
        raise Failure(what, expected, shorten(got))


def expect_data(what, got, expected):
    """Like expect_equal for long data: says where they differ first."""
    if got == expected:
        return
    if len(got) != len(expected):
        raise Failure(what, f"{len(expected)} bytes", f"{len(got)} bytes")
    at = next(i for i in range(len(got)) if got[i] != expected[i])
    raise Failure(what, f"at {at}: {expected[at:at + 16].hex()}", got[at:at + 16].hex())


def shorten(value):
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 400 else text[:400] + f"… ({len(text)} characters)"


def eventually(what, condition, within=5.0, every=0.02):
    """Polls `condition` until it is true. For what a server does in its own time."""
    within *= SLOWNESS
    deadline = time.monotonic() + within
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise Failure(what, f"within {within} s", value)
        time.sleep(every)


def pattern(length, seed):
    """`length` bytes that no two seeds share."""
    return random.Random(seed).randbytes(length)


def random_seed():
    """The seed of this run: FDB_NBD_SEED, or a new one; a failure prints it."""
    global used_seed
    used_seed = int(os.environ.get("FDB_NBD_SEED") or int.from_bytes(os.urandom(4), "big"))
    return used_seed


used_seed = None

# -- servers --------------------------------------------------------------------------------------


def cluster_store():
    """The URL of a store in the cluster that nobody has used."""
    return f"fdb:{CLUSTER_FILE}?prefix=test-{os.urandom(8).hex()}"


class Server:
    """A server process with its own directory. As a context manager it ends with the block.

    store: a URL; DIR in it is the directory. "memory:" and "rocksdb:DIR" are a store of its own in the cluster where there is one. There a tool that
    is given the URL works beside the server; `held_store` is the URL that leads to the server itself.
    volumes: name -> size in bytes. args: further arguments of `serve`. directory: use this one and keep it.
    """

    running = []

    def __init__(self, volumes=None, store="memory:", args=(), directory=None, tcp=True, unix=True, open_files=None,
                 read_only=False):
        self.volumes = {"disk": 64 * GiB} if volumes is None else volumes
        self.own_directory = directory is None
        self.directory = directory or tempfile.mkdtemp(prefix="fdb-nbd-test-")
        self.is_in_cluster = bool(CLUSTER_FILE) and not PEER and store in ("memory:", "rocksdb:DIR")
        self.store = cluster_store() if self.is_in_cluster else store.replace("DIR", os.path.join(self.directory, "store"))
        self.args = list(args)
        self.has_control_of_its_own = self.is_in_cluster and "--control" not in self.args
        self.socket_path = os.path.join(self.directory, "nbd.sock")
        self.log_path = os.path.join(self.directory, "log")
        self.tcp, self.unix, self.read_only = tcp, unix, read_only
        self.open_files = open_files
        self.host, self.port = "127.0.0.1", None
        self.process = None
        self.cursor = 0
        self.start()

    def __enter__(self):
        return self

    def __exit__(self, kind, error, _):
        if kind is None:
            try:
                self.stop()
            finally:
                self.remove()
            return
        status = self.process.poll()
        error.add_note(f"server {'runs' if status is None else f'ended with status {status}'}; the end of its log:\n{self.log_tail()}")
        self.kill()
        self.remove()

    def command(self):
        if PEER:
            return self.peer_command()
        out = [PROGRAM, "--store", self.store, "serve"]
        if self.tcp:
            out += ["--listen", f"tcp://{self.host}:0"]
        if self.unix:
            out += ["--listen", f"unix:{self.socket_path}"]
        for name, size in self.volumes.items():
            out += ["--volume", f"{name}={size}"]
        # So that a server that takes over from one that was killed waits a second and no longer.
        lease = ["--lease", "1"] if self.is_in_cluster and "--lease" not in self.args else []
        control = ["--control", self.control_path] if self.has_control_of_its_own else []
        return out + lease + control + (["--read-only"] if self.read_only else []) + self.args

    @property
    def control_path(self):
        """Of the socket, where `args` name no other."""
        return os.path.join(self.directory, "control.sock") if self.is_in_cluster else self.store.split(":", 1)[1] + "/control.sock"

    @property
    def held_store(self):
        return f"control:{self.control_path}" if self.has_control_of_its_own else self.store

    def peer_command(self):
        if len(self.volumes) != 1 or self.args:
            raise Skip(f"{PEER} has one volume and other options")
        (name, size), = self.volumes.items()
        if self.tcp:
            with socket.create_server((self.host, 0)) as probe:
                self.port = probe.getsockname()[1]
        read_only = ["-r"] if self.read_only else []
        if PEER == "nbdkit":
            return ["nbdkit", "-f", "-U", self.socket_path, *read_only, "-e", name, "memory", str(size)]
        image = os.path.join(self.directory, "image")
        with open(image, "ab") as file:
            file.truncate(size)
        return ["qemu-nbd", "-t", "-k", self.socket_path, *read_only, "-f", "raw", "-e", "100", "-x", name, image]

    def start(self):
        if os.path.exists(self.socket_path) and PEER:
            os.unlink(self.socket_path)
        out_path = os.path.join(self.directory, "out")

        def limit_files():
            resource.setrlimit(resource.RLIMIT_NOFILE, (self.open_files, self.open_files))

        with open(out_path, "wb") as out, open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(self.command(), stdin=subprocess.DEVNULL, stdout=out, stderr=log,
                                            preexec_fn=limit_files if self.open_files else None)
        Server.running.append(self)
        deadline = time.monotonic() + 30
        while not self.is_listening(out_path):
            if self.process.poll() is not None:
                raise Failure("starting the server", "listening", f"exit status {self.process.returncode}\n{self.log_tail()}")
            if time.monotonic() > deadline:
                raise Failure("starting the server", "`listening on` within 30 s", open(out_path).read() + self.log_tail())
            time.sleep(0.005)
        return self

    def is_listening(self, out_path):
        if PEER:
            return os.path.exists(self.socket_path)
        lines = [line for line in open(out_path).read().splitlines(keepends=True)
                 if line.startswith("listening on ") and line.endswith("\n")]
        if len(lines) < self.tcp + self.unix:
            return False
        for line in lines:
            address = line.split()[2]
            if address.startswith("tcp://"):
                self.port = int(address.rsplit(":", 1)[1])
        return True

    def connect(self, tcp=None, **options):
        """A raw connection: over the Unix socket, where `tcp` is not asked for."""
        use_tcp = (not self.unix) if tcp is None else tcp
        if use_tcp and PEER:
            raise Skip("peers are tested over Unix sockets")
        options.setdefault("timeout", 10 * SLOWNESS)
        return Wire((self.host, self.port) if use_tcp else self.socket_path, **options)

    def session(self, name=None, structured=False, context=False, tcp=None, **options):
        """A connection in transmission with one volume."""
        wire = self.connect(tcp, **options)
        name = next(iter(self.volumes)) if name is None else name
        wire.start()
        if structured or context:
            wire.structured_replies()
        if context:
            expect_equal("SET_META_CONTEXT", list(wire.contexts(10, name, ["base:allocation"])), ["base:allocation"])
        wire.go(name)
        return wire

    def uri(self, name=None, tcp=False):
        name = next(iter(self.volumes)) if name is None else name
        if tcp:
            return f"nbd://{self.host}:{self.port}/{name}"
        return f"nbd+unix:///{name}?socket={self.socket_path}"

    def fresh(self, length):
        """The offset of a piece of the first volume that no other test has touched, 1 MiB apart from its neighbours."""
        offset = self.cursor
        self.cursor += -(-length // MiB) * MiB + MiB
        expect("the volume of these tests", self.cursor <= next(iter(self.volumes.values())), "room", self.cursor)
        return offset

    def check_serves(self):
        """A new client is served: what a test asserts after it has been rude."""
        expect_equal("exit status of the server (None: it runs)", self.process.poll(), None)
        with self.session() as wire:
            wire.read(0, 4096)
            wire.disconnect()

    def resident_bytes(self):
        with open(f"/proc/{self.process.pid}/status") as file:
            for line in file:
                if line.startswith("VmRSS:"):
                    return int(line.split()[1]) * KiB
        raise Failure("resident memory of the server", "a running server", "none")

    def file_count(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def log_tail(self, lines=15):
        with open(self.log_path, errors="replace") as file:
            return "".join(file.readlines()[-lines:])

    def stop(self, within=20):
        """SIGTERM; the server must end by itself with status 0."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(within * SLOWNESS)
            except subprocess.TimeoutExpired:
                self.kill()
                raise Failure("SIGTERM", f"the server ends within {within * SLOWNESS} s", "still running") from None
        self.forget()
        if not PEER:
            expect_equal("exit status of the server", self.process.returncode, 0)

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.forget()

    def forget(self):
        if self in Server.running:
            Server.running.remove(self)

    def remove(self):
        self.forget()
        if self.own_directory:
            shutil.rmtree(self.directory, ignore_errors=True)


shared_servers = {}


def shared(key="default", **options):
    """One server for all tests of a file; it is started when first asked for, and again when it has died."""
    server = shared_servers.get(key)
    if server is None or server.process.poll() is not None:
        if server:
            server.remove()
        server = shared_servers[key] = Server(**options)
    return server


# -- tools ----------------------------------------------------------------------------------------


def tool_path():
    """Debian's directories first: its Python is the one that has libnbd's module."""
    return "/usr/bin:/usr/sbin:/bin:/sbin:" + os.environ.get("PATH", "")


def tool(*args, status=0, timeout=120, data=None):
    """Runs a program that must end with `status` (None: any) and returns its CompletedProcess, output as text."""
    requires(args[0])
    env = dict(os.environ, PATH=tool_path(), LC_ALL="C.UTF-8")
    try:
        done = subprocess.run(args, capture_output=True, timeout=timeout, env=env, input=data, check=False)
    except subprocess.TimeoutExpired as error:
        raise Failure(" ".join(args), f"an end within {timeout} s", (error.stdout or b"")[-2000:]) from None
    done.stdout, done.stderr = (text.decode(errors="replace") for text in (done.stdout, done.stderr))
    if status is not None and done.returncode != status:
        raise Failure(" ".join(args), f"exit status {status}",
                      f"{done.returncode}\n{(done.stdout + done.stderr)[-3000:]}")
    return done


def fdb_nbd(*args, store, status=0, timeout=60):
    requires_fdb_nbd()
    return tool(PROGRAM, "--store", store, *args, status=status, timeout=timeout)


# -- the runner -----------------------------------------------------------------------------------

tests = []


def test(function=None, *, limit=60):
    """Marks a test. It fails when it takes longer than `limit` seconds."""
    def mark(body):
        body.limit = limit
        tests.append(body)
        return body
    return mark(function) if function else mark


def on_alarm(*_):
    raise Failure("time", "an end within the limit of this test", "still running")


def describe(error):
    if isinstance(error, Failure):
        at = traceback.extract_tb(error.__traceback__)
        lines = [f"{os.path.basename(f.filename)}:{f.lineno} {f.name}" for f in at if f.filename.endswith("_test.py")]
        notes = "".join(f"\n      {line}" for note in getattr(error, "__notes__", ()) for line in note.splitlines())
        return f"{error}\n      at:       {', '.join(lines)}{notes}"
    return "".join(traceback.format_exception(error)).rstrip()


def run_one(body):
    """None for success, a Skip, or another exception."""
    signal.signal(signal.SIGALRM, on_alarm)
    signal.alarm(body.limit * SLOWNESS)
    try:
        body()
        for server in shared_servers.values():
            expect_equal("exit status of the server after this test (None: it runs)", server.process.poll(), None)
    except Skip as reason:
        return reason
    except Exception as error:   # pylint: disable=broad-except
        return error
    finally:
        signal.alarm(0)
    return None


def main():
    names = sys.argv[1:]
    if names == ["--list"]:
        print("\n".join(body.__name__ for body in tests))
        return
    if not PEER and not os.path.exists(PROGRAM):
        print(f"skip: no program at {PROGRAM} (set FDB_NBD)")
        sys.exit(SKIP)
    chosen = [body for body in tests if not names or any(fnmatch.fnmatch(body.__name__, name) for name in names)]
    if not chosen:
        sys.exit(f"no test is called {' '.join(names)}")
    failed, skipped = [], []
    for body in chosen:
        started = time.monotonic()
        outcome = run_one(body)
        took = time.monotonic() - started
        if outcome is None:
            print(f"ok    {body.__name__} ({took:.2f} s)", flush=True)
        elif isinstance(outcome, Skip):
            skipped.append(body)
            print(f"skip  {body.__name__}: {outcome}", flush=True)
        else:
            failed.append(body)
            report_failure(body, outcome, took)
    for server in list(shared_servers.values()):
        try:
            server.stop()
        except Failure as error:
            failed.append(main)
            print(f"FAIL  stopping the server\n      {error}", flush=True)
        server.remove()
    print(f"{len(chosen) - len(failed) - len(skipped)} passed, {len(failed)} failed, {len(skipped)} skipped")
    if not failed and len(skipped) == len(chosen):
        print(f"nothing could run here: {outcome}")
        sys.exit(SKIP)
    sys.exit(1 if failed else 0)


def report_failure(body, error, took):
    print(f"FAIL  {body.__name__} ({took:.2f} s)\n      {describe(error)}")
    seed = f"FDB_NBD_SEED={used_seed} " if used_seed is not None else ""
    target = f"FDB_NBD_PEER={PEER}" if PEER else f"FDB_NBD={PROGRAM}"
    for server in Server.running:
        print("      log of the server:\n" + "".join(f"        {line}\n" for line in server.log_tail().splitlines()), end="")
    print(f"      run it:   {seed}{target} {os.path.relpath(sys.argv[0])} {body.__name__}", flush=True)
    for server in [s for s in Server.running if s not in shared_servers.values()]:
        server.kill()
        server.remove()
