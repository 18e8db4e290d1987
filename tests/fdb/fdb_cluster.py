"""A FoundationDB in a directory of its own and on free ports, for tests and benchmarks."""

import ctypes
import ctypes.util
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time

SKIPPED = 77
START_TIMEOUT_S = 60
STATUS_TIMEOUT_S = 30
# Where the files of the engine `memory` are kept, unless there is less space: none of its tests is about disks.
MEMORY_DIRECTORY = "/dev/shm"
MEMORY_DIRECTORY_BYTES = 4 << 30
LIBRARIES = ["/usr/lib/libfdb_c.so", "/usr/lib64/libfdb_c.so", "/usr/local/lib/libfdb_c.so"]
PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None)


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


def free_port(host="127.0.0.1"):
    with socket.socket() as probe:
        probe.bind((host, 0))
        return probe.getsockname()[1]


def die_with_parent():
    """Run in a child before its program: SIGKILL reaches it when this process ends, however it ends."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def directory_of(engine):
    """Where a cluster's directory is made; None for the usual place."""
    if engine != "memory" or not os.access(MEMORY_DIRECTORY, os.W_OK):
        return None
    space = os.statvfs(MEMORY_DIRECTORY)
    return MEMORY_DIRECTORY if space.f_bavail * space.f_frsize >= MEMORY_DIRECTORY_BYTES else None


class Process:
    """One fdbserver, which keeps its address and its data over any number of starts."""

    def __init__(self, cluster, number, address):
        self.cluster, self.number, self.address = cluster, number, address
        self.directory = cluster.root / f"process-{number}"
        for name in ("data", "log"):
            (self.directory / name).mkdir(parents=True)
        self.process = None

    def start(self):
        with open(self.directory / "out", "ab") as output:
            self.process = subprocess.Popen(
                [*self.cluster.launcher, find_tool("fdbserver"), "-p", self.address, "-l", "public",
                 "-C", self.cluster.cluster_file, "-d", self.directory / "data", "-L", self.directory / "log",
                 "--locality-machineid", f"m{self.number}", "--locality-zoneid", f"z{self.number}",
                 "--memory", "4GiB", "--cache-memory", self.cluster.cache,
                 # The status is made from trace events, so none is left out.
                 "--logsize", "1MiB", "--maxlogssize", "10MiB"],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, preexec_fn=die_with_parent)

    def kill(self):
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def terminate(self):
        self.process.terminate()
        self.process.wait()

    def pause(self):
        self.process.send_signal(signal.SIGSTOP)

    def resume(self):
        self.process.send_signal(signal.SIGCONT)

    def has_ended(self):
        return self.process is None or self.process.poll() is not None

    def output(self):
        return (self.directory / "out").read_text(errors="replace")


class Cluster:
    """Runs from __enter__ to __exit__.

    engine: one of fdbcli's storage engines: memory, ssd. processes: one makes `single`, five or more make `double` with
    three coordinators, each process a machine of its own. host: the address to listen on. launcher: what runs fdbserver,
    such as ["ip", "netns", "exec", NAME]; `cli` uses it, too. cache: of each storage server, for pages of its file.
    """

    def __init__(self, engine="ssd", directory=None, processes=1, host="127.0.0.1", launcher=(), cache="256MiB"):
        self.engine = engine
        self.cache = cache
        self.host = host
        self.launcher = list(launcher)
        self.redundancy = "double" if processes >= 5 else "single"
        self.root = pathlib.Path(tempfile.mkdtemp(prefix="fdb-nbd-cluster-", dir=directory or directory_of(engine)))
        self.cluster_file = self.root / "fdb.cluster"
        local = not self.launcher
        self.processes = [Process(self, number, f"{host}:{free_port(host) if local else 4500 + number}") for number in range(processes)]

    def __enter__(self):
        coordinators = ",".join(p.address for p in self.processes[:3 if self.redundancy == "double" else 1])
        self.cluster_file.write_text(f"test:test@{coordinators}\n")
        try:
            for process in self.processes:
                process.start()
            self.configure()
            self.wait_until_healthy()
        except BaseException:
            self.__exit__()
            raise
        return self

    def configure(self):
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            configured = self.cli(f"configure new {self.redundancy} {self.engine}")
            if configured.returncode == 0 or "already" in configured.stdout:
                return
            if any(p.has_ended() for p in self.processes) or time.monotonic() > deadline:
                raise RuntimeError("".join(p.output() for p in self.processes) + configured.stdout + configured.stderr)
            time.sleep(0.2)

    def __exit__(self, *exception):
        for process in self.processes:
            process.kill()
        shutil.rmtree(self.root, ignore_errors=True)

    def cli(self, command, timeout_s=10):
        # Options of the client, such as that it misbehaves, are for what is tested.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("FDB_NETWORK_OPTION_")}
        return subprocess.run(
            [*self.launcher, find_tool("fdbcli"), "-C", self.cluster_file, "--exec", command, "--timeout", str(timeout_s)],
            capture_output=True, text=True, check=False, env=environment)

    def status(self):
        text = self.cli("status json", STATUS_TIMEOUT_S).stdout
        return json.loads(text[text.index("{"):])

    def is_healthy(self):
        """Every process is there and the cluster takes commits. Data may still be on its way to where it belongs."""
        if len(self.processes) == 1:
            return True   # that it took a configuration is enough
        try:
            cluster = self.status()["cluster"]
        except (ValueError, KeyError):
            return False
        return (cluster.get("database_available", False) and cluster.get("fault_tolerance", {}).get("max_zone_failures_without_losing_data", 0) >= 1
                and cluster.get("recovery_state", {}).get("name") == "fully_recovered" and len(cluster["processes"]) == len(self.processes))

    def wait_until_healthy(self, within_s=120):
        """Returns the seconds it took."""
        started = time.monotonic()
        while not self.is_healthy():
            if time.monotonic() - started > within_s:
                raise RuntimeError(f"the cluster is not healthy after {within_s} s: {self.cli('status').stdout}")
            time.sleep(0.2)
        return time.monotonic() - started

    def roles(self):
        """What each role is called, and the processes that play it."""
        by_address = {p.address: p for p in self.processes}
        out = {}
        for process in self.status()["cluster"]["processes"].values():
            for role in process["roles"]:
                out.setdefault(role["role"], []).append(by_address[process["address"]])
        return out

    def storage_queue_bytes(self):
        """What the storage server that is furthest behind has taken and not yet put on its disk, as the proxies knew it up to about
        a second ago; None where they do not tell. The status is up to five seconds old."""
        told = self.cli(r"get \xff\xff/metrics/health/aggregate").stdout
        found = re.search(r'"worst_storage_queue":(\d+)', told)
        return int(found.group(1)) if found else None

    def settle(self, below_bytes=20_000_000, within_s=600):
        """Waits until the cluster has caught up with what was written."""
        deadline = time.monotonic() + within_s
        time.sleep(1)   # until the proxies know what was written last
        while True:
            queue_bytes = self.storage_queue_bytes()
            if queue_bytes is not None and queue_bytes < below_bytes:
                return
            if time.monotonic() > deadline:
                raise RuntimeError(f"after {within_s} s {queue_bytes} bytes are still on their way to the disk")
            time.sleep(0.5)
