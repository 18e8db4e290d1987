"""The servers under test: how each is prepared, started, found ready and stopped."""

import os
import select
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass, field

START_TIMEOUT_S = 30
STOP_TIMEOUT_S = 20
EXPORT_NAME = "bench"
BASELINE_SUFFIX = "@baseline"

MEMORY = "memory"
DISK = "disk"


class Unavailable(Exception):
    """The server cannot take part; the text says why."""


@dataclass
class Server:
    """One server process. `prepare` makes its store, `command` its argument vector."""

    name: str
    durability: str
    binary: str
    ours: bool = False
    baseline: bool = False
    note: str = ""
    directory: str = ""
    process: subprocess.Popen = None
    pid: int = 0
    argv: list = field(default_factory=list)

    @property
    def socket_path(self):
        return os.path.join(self.directory, "sock")

    @property
    def data_path(self):
        return os.path.join(self.directory, "data")

    @property
    def uri(self):
        return f"nbd+unix:///{EXPORT_NAME}?socket={self.socket_path}"

    def prepare(self, size_bytes):
        pass

    def command(self, size_bytes):
        raise NotImplementedError

    def version(self):
        for arguments in (["--version"], ["version"], ["-V"]):
            output = subprocess.run([self.binary, *arguments], capture_output=True, text=True, check=False)
            if output.returncode == 0 and output.stdout.strip():
                return output.stdout.strip().splitlines()[0]
        return "unknown"

    def start(self, work_directory, size_bytes):
        if shutil.which(self.binary) is None:
            raise Unavailable(f"{self.binary} is not " + ("built" if "/" in self.binary else "installed"))
        self.directory = os.path.join(work_directory, self.name)
        os.makedirs(self.directory)
        self.prepare(size_bytes)
        self.argv = self.command(size_bytes)
        log_path = os.path.join(self.directory, "stderr")
        with open(log_path, "wb") as log:
            self.process = subprocess.Popen(self.argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log)
        self.pid = self.process.pid
        try:
            self.wait_ready(size_bytes)
        except Unavailable as error:
            self.stop()
            with open(log_path, encoding="utf-8", errors="replace") as log:
                raise Unavailable(f"{error}: {log.read().strip()[-300:]}") from error

    def wait_ready(self, size_bytes):
        """Waits until the socket accepts: what peers offer."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            if self.process.poll() not in (None, 0):
                raise Unavailable(f"exited with status {self.process.returncode}")
            with socket.socket(socket.AF_UNIX) as probe:
                try:
                    probe.connect(self.socket_path)
                    return
                except OSError:
                    time.sleep(0.02)
        raise Unavailable(f"did not accept within {START_TIMEOUT_S} s")

    def stop(self):
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.process.stdout.close()
        self.process = None


def run_tool(argv):
    result = subprocess.run(argv, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise Unavailable(f"{' '.join(argv)}: {result.stderr.strip()[-300:]}")


def make_sparse_file(path, size_bytes):
    with open(path, "wb") as data:
        data.truncate(size_bytes)


@dataclass
class FdbNbd(Server):
    """Our server over `engine`. The volume is made with the compression, before it serves or through the running server
    where the store is in memory."""

    engine: str = MEMORY
    compression: str = "none"
    create_options: tuple = ()
    serve_options: tuple = ()

    @property
    def control_path(self):
        return os.path.join(self.directory, "control")

    @property
    def store_url(self):
        return "memory:" if self.engine == MEMORY else f"rocksdb:{os.path.join(self.directory, 'store')}"

    def create(self, store_url, size_bytes):
        options = ["--compression", self.compression, *self.create_options]
        run_tool([self.binary, "--store", store_url, "create", EXPORT_NAME, str(size_bytes), *options])

    def prepare(self, size_bytes):
        if self.engine != MEMORY:
            self.create(self.store_url, size_bytes)

    def command(self, size_bytes):
        listen = ["--listen", f"unix:{self.socket_path}", "--control", self.control_path]
        return [self.binary, "--store", self.store_url, "serve", *listen, *self.serve_options]

    def wait_ready(self, size_bytes):
        self.wait_listening()
        if self.engine == MEMORY:
            self.create(f"control:{self.control_path}", size_bytes)

    def wait_listening(self):
        deadline = time.monotonic() + START_TIMEOUT_S
        stdout, seen = self.process.stdout.fileno(), b""
        while time.monotonic() < deadline:
            readable, _, _ = select.select([stdout], [], [], deadline - time.monotonic())
            chunk = os.read(stdout, 4096) if readable else b""
            if not chunk:
                break
            seen += chunk
            if f"listening on unix:{self.socket_path}\n".encode() in seen:
                return
        raise Unavailable("did not print the address it listens on")


@dataclass
class NbdkitMemory(Server):
    def command(self, size_bytes):
        return ["nbdkit", "--foreground", "--unix", self.socket_path, "memory", str(size_bytes)]


@dataclass
class NbdkitFile(Server):
    def prepare(self, size_bytes):
        make_sparse_file(self.data_path, size_bytes)

    def command(self, size_bytes):
        return ["nbdkit", "--foreground", "--unix", self.socket_path, "file", self.data_path]


@dataclass
class QemuNbd(Server):
    image_format: str = "raw"

    def prepare(self, size_bytes):
        if self.image_format == "qcow2":
            if shutil.which("qemu-img") is None:
                raise Unavailable("qemu-img is not installed")
            run_tool(["qemu-img", "create", "-q", "-f", "qcow2", self.data_path, str(size_bytes)])
        elif self.image_format == "raw":
            make_sparse_file(self.data_path, size_bytes)

    def command(self, size_bytes):
        argv = ["qemu-nbd", "--persistent", "--shared=0", "-k", self.socket_path, "-x", EXPORT_NAME]
        if self.image_format == "null-co":
            return argv + ["--image-opts", f"driver=null-co,size={size_bytes},read-zeroes=on"]
        return argv + ["--cache=writeback", "--discard=unmap", "-f", self.image_format, self.data_path]


@dataclass
class NbdServer(Server):
    """Debian's nbd-server: puts itself into the background, so its pid comes from a file."""

    @property
    def pid_path(self):
        return os.path.join(self.directory, "pid")

    def prepare(self, size_bytes):
        make_sparse_file(self.data_path, size_bytes)
        with open(os.path.join(self.directory, "config"), "w", encoding="utf-8") as config:
            config.write(
                f"[generic]\n  unixsock = {self.socket_path}\n  allowlist = true\n"
                f"[{EXPORT_NAME}]\n  exportname = {self.data_path}\n  filesize = {size_bytes}\n"
                "  flush = true\n  fua = true\n  trim = true\n"
            )

    def command(self, size_bytes):
        return ["nbd-server", "-C", os.path.join(self.directory, "config"), "-p", self.pid_path]

    def wait_ready(self, size_bytes):
        super().wait_ready(size_bytes)
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            try:
                with open(self.pid_path, encoding="ascii") as pid_file:
                    self.pid = int(pid_file.read())
                    return
            except (FileNotFoundError, ValueError):
                time.sleep(0.02)
        raise Unavailable("did not write its pid")

    def stop(self):
        if self.process is not None and self.pid != self.process.pid:
            try:
                os.kill(self.pid, signal.SIGTERM)
            except ProcessLookupError:
                pass
        super().stop()


def fdb_nbd_servers(binary, create_options=(), serve_options=(), baseline=False):
    """Our servers; a `baseline` is another build of ours that the first is compared with."""
    suffix = BASELINE_SUFFIX if baseline else ""
    variants = [
        ("fdb-nbd-memory", MEMORY, MEMORY, "none"),
        ("fdb-nbd-rocksdb", DISK, "rocksdb", "none"),
        ("fdb-nbd-rocksdb-lz4", DISK, "rocksdb", "lz4"),
    ]
    return [
        FdbNbd(
            name + suffix,
            durability,
            binary,
            ours=True,
            baseline=baseline,
            engine=engine,
            compression=compression,
            create_options=create_options,
            serve_options=serve_options,
        )
        for name, durability, engine, compression in variants
    ]


def peers():
    return [
        NbdkitMemory("nbdkit-memory", MEMORY, "nbdkit"),
        QemuNbd("qemu-null-co", MEMORY, "qemu-nbd", image_format="null-co", note="keeps no data; reads are zeroes"),
        NbdkitFile("nbdkit-file", DISK, "nbdkit"),
        QemuNbd("qemu-raw", DISK, "qemu-nbd"),
        QemuNbd("qemu-qcow2", DISK, "qemu-nbd", image_format="qcow2"),
        NbdServer("nbd-server", DISK, "nbd-server"),
    ]
