"""Servers on the host: fdb-nbd, and nbdkit to tell a fault of the server from one of this test."""

import json
import os
import pathlib
import re
import select
import signal
import socket
import subprocess
import time

from .common import Failure, Skip, die_with_parent, find_tool, tail

READY_TIMEOUT_S = 60
# A graceful stop answers what is in flight; far less is expected, a loaded machine gets this much.
STOP_TIMEOUT_S = 60
SIZE_UNITS = {"M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
EXPORT = "example"


class Server:
    """One store with one volume, EXPORT, that outlives any number of server processes. Bytes reach it on loopback."""

    # Whether the store drops blocks of zeros that a client writes.
    keeps_zeros_out = False

    def __init__(self, work_dir, size):
        self.work = pathlib.Path(work_dir)
        self.size = size
        self.port = None
        self._process = None
        self._generation = 0
        self._log = None

    @staticmethod
    def program():
        """The path of the program, or Skip."""
        raise NotImplementedError

    @property
    def size_bytes(self):
        """The volume's size."""
        return int(self.size[:-1]) * SIZE_UNITS[self.size[-1]]

    def start(self):
        """Starts a process on the store; returns once it accepts connections."""
        if self._process is not None:
            raise RuntimeError("already running")
        self._generation += 1
        self._log = self.work / f"server-{self._generation}.log"
        self._launch()

    def kill(self):
        """SIGKILL: the process is gone when this returns, without a word to anybody."""
        self._check_running()
        self._process.kill()
        self._process.wait()
        self._close_stdout()
        self._process = None

    def terminate(self):
        """SIGTERM; returns the seconds until the process ended, which must be with status 0."""
        self._check_running()
        started = time.monotonic()
        self._process.send_signal(signal.SIGTERM)
        try:
            status = self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise Failure(f"the server still runs {STOP_TIMEOUT_S} s after SIGTERM\n{self.log()}") from None
        self._close_stdout()
        self._process = None
        if status != 0:
            raise Failure(f"after SIGTERM the server ended with status {status}\n{self.log()}")
        return time.monotonic() - started

    def close(self):
        """Ends the process if one runs."""
        if self._process is not None:
            if self._process.poll() is None:
                self.kill()
            self._process = None

    def log(self):
        """The end of what the newest process printed."""
        if self._log is None or not self._log.exists():
            return ""
        return f"--- {self._log.name}\n" + tail(self._log.read_text(errors="replace"), 60)

    def store_bytes(self):
        """Disk space that the store takes on the host."""
        return sum(path.lstat().st_blocks * 512 for path in self.work.joinpath("store").rglob("*"))

    def used_bytes(self):
        """What the volume says it uses; None where this kind of server cannot say."""
        return None

    def established_count(self):
        """TCP connections that the server has accepted and that are open."""
        count = 0
        for line in pathlib.Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]:
            fields = line.split()
            count += int(fields[1].rpartition(":")[2], 16) == self.port and fields[3] == "01"
        return count

    def _close_stdout(self):
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _check_running(self):
        if self._process is None or self._process.poll() is not None:
            status = None if self._process is None else self._process.returncode
            raise Failure(f"the server ended by itself (status {status})\n{self.log()}")

    def _launch(self):
        raise NotImplementedError


class FdbNbd(Server):
    """The program under test: on an embedded store, or in the FoundationDB of FDB_NBD_TEST_CLUSTER_FILE."""

    keeps_zeros_out = True

    def __init__(self, work_dir, size):
        super().__init__(work_dir, size)
        cluster_file = os.environ.get("FDB_NBD_TEST_CLUSTER_FILE")
        self._is_embedded = not cluster_file
        self._control = str(self.work / "store" / "control.sock")
        self._store = f"rocksdb:{self.work / 'store'}" if self._is_embedded else f"fdb:{cluster_file}?prefix={self.work.name}"

    def store_bytes(self):
        """In a cluster, what others have stored there counts, too: nobody can tell."""
        return super().store_bytes() if self._is_embedded else 0

    @staticmethod
    def program():
        root = pathlib.Path(__file__).resolve().parents[3]
        binary = os.environ.get("FDB_NBD") or str(root / "build" / "release" / "fdb-nbd")
        if not os.access(binary, os.X_OK):
            raise Skip(f"{binary} is not built (set FDB_NBD to the program)")
        return binary

    def used_bytes(self):
        listed = subprocess.run([self.program(), "--store", self._store, "ls", "--json"],
                                capture_output=True, text=True, timeout=READY_TIMEOUT_S)
        if listed.returncode != 0:
            raise Failure(f"ls --json ended with status {listed.returncode}: {listed.stderr}")
        return json.loads(listed.stdout)["volumes"][0]["used_bytes"]

    def resize(self, size):
        """Grows the volume while it is served."""
        done = subprocess.run([self.program(), "--store", f"control:{self._control}", "resize", EXPORT, size],
                              capture_output=True, text=True, timeout=READY_TIMEOUT_S)
        if done.returncode != 0:
            raise Failure(f"resize ended with status {done.returncode}: {done.stderr}")
        self.size = size

    def _launch(self):
        store = self.work / "store"
        store.mkdir(exist_ok=True)
        with open(self._log, "wb") as log:
            self._process = subprocess.Popen(
                [self.program(), "--store", self._store, "serve",
                 # Where it was before, for clients that look for it there.
                 "--listen", f"tcp://127.0.0.1:{self.port or 0}", "--volume", f"{EXPORT}={self.size}",
                 "--control", self._control, "--lease", "1"],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log,
                preexec_fn=die_with_parent)
        deadline = time.monotonic() + READY_TIMEOUT_S
        printed = b""
        while True:
            match = re.search(rb"listening on tcp://127\.0\.0\.1:(\d+)\s", printed)
            if match:
                self.port = int(match.group(1))
                return
            if select.select([self._process.stdout], [], [], 0.2)[0]:
                chunk = os.read(self._process.stdout.fileno(), 4096)
                printed += chunk
                if not chunk:
                    status = self._process.wait()
                    raise Failure(f"the server ended with status {status} before it listened\n{self.log()}")
            elif time.monotonic() > deadline:
                raise Failure(f"no line 'listening on tcp://127.0.0.1:PORT' within {READY_TIMEOUT_S} s; stdout was "
                              f"{printed!r}\n{self.log()}")


class Nbdkit(Server):
    """nbdkit on a sparse file, which is a server known to be right in all that the scenarios do."""

    @staticmethod
    def program():
        return find_tool("nbdkit", "nbdkit")

    def _launch(self):
        store = self.work / "store"
        store.mkdir(exist_ok=True)
        disk = store / "disk"
        if not disk.exists():
            with open(disk, "wb") as out:
                out.truncate(self.size_bytes)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        with open(self._log, "wb") as log:
            self._process = subprocess.Popen(
                [self.program(), "-f", "-i", "127.0.0.1", "-p", str(self.port), "file", str(disk)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=die_with_parent)
        deadline = time.monotonic() + READY_TIMEOUT_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                return
            except OSError:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise Failure(f"nbdkit does not listen\n{self.log()}") from None
                time.sleep(0.05)


KINDS = {"fdb-nbd": FdbNbd, "nbdkit": Nbdkit}
