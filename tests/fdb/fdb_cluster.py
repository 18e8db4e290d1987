"""A FoundationDB of one process, in a directory of its own and on a free port, for tests and benchmarks."""

import ctypes.util
import json
import os
import pathlib
import shutil
import socket
import subprocess
import tempfile
import time

SKIPPED = 77
START_TIMEOUT_S = 60
LIBRARIES = ["/usr/lib/libfdb_c.so", "/usr/lib64/libfdb_c.so", "/usr/local/lib/libfdb_c.so"]


def find_tool(name):
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")


def find_library():
    library = os.environ.get("FDB_NBD_FDB_LIBRARY") or ctypes.util.find_library("fdb_c")
    return library or next((path for path in LIBRARIES if os.path.exists(path)), None)


def missing():
    """What is not installed, as a sentence; None where everything is."""
    if find_tool("fdbserver") and find_tool("fdbcli") and find_library():
        return None
    return "fdbserver, fdbcli or libfdb_c.so is not installed (packages foundationdb-server, -clients)"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Cluster:
    """Runs from __enter__ to __exit__; `engine` is one of fdbcli's storage engines: memory, ssd."""

    def __init__(self, engine="ssd", directory=None):
        self.engine = engine
        self.root = pathlib.Path(tempfile.mkdtemp(prefix="fdb-nbd-cluster-", dir=directory))
        self.cluster_file = self.root / "fdb.cluster"
        self.process = None

    def __enter__(self):
        address = f"127.0.0.1:{free_port()}"
        self.cluster_file.write_text(f"test:test@{address}\n")
        for name in ("data", "log"):
            (self.root / name).mkdir()
        with open(self.root / "server.out", "wb") as output:
            self.process = subprocess.Popen(
                [find_tool("fdbserver"), "-p", address, "-l", "public", "-C", self.cluster_file,
                 "-d", self.root / "data", "-L", self.root / "log", "--knob_min_trace_severity=20"],
                stdout=output, stderr=output)
        try:
            self.configure()
        except BaseException:
            self.__exit__()
            raise
        return self

    def configure(self):
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            configured = self.cli(f"configure new single {self.engine}")
            if configured.returncode == 0 or "already" in configured.stdout:
                return
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((self.root / "server.out").read_text() + configured.stdout + configured.stderr)
            time.sleep(0.2)

    def __exit__(self, *exception):
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.root, ignore_errors=True)

    def cli(self, command, timeout_s=10):
        return subprocess.run(
            [find_tool("fdbcli"), "-C", self.cluster_file, "--exec", command, "--timeout", str(timeout_s)],
            capture_output=True, text=True, check=False)

    def status(self):
        text = self.cli("status json").stdout
        return json.loads(text[text.index("{"):])

    def storage_queue_bytes(self):
        """What the storage server has taken and not yet put on its disk; None where the status does not say."""
        return self.status().get("cluster", {}).get("qos", {}).get("worst_queue_bytes_storage_server")

    def settle(self, below_bytes=20_000_000, within_s=120):
        """Waits until the cluster has caught up with what was written."""
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            queue_bytes = self.storage_queue_bytes()
            if queue_bytes is not None and queue_bytes < below_bytes:
                return
            time.sleep(0.5)
