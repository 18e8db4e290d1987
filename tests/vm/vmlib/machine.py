"""A guest under QEMU, without KVM and without root: boot, run scripts in it, read its console."""

import base64
import dataclasses
import os
import pathlib
import select
import socket
import subprocess
import time

from .common import Failure, die_with_parent, find_tool, tail

# Booting takes 5 s, several times that on a busy machine. An emulated kernel of several CPUs now and then hangs in its first
# second, before anything of ours runs; another start then helps.
BOOT_TIMEOUT_S = 60
BOOT_ATTEMPTS = 3
# What the host allows on top of a script's own time limit before it gives the guest up.
GRACE_S = 20
CONSOLE_TAIL_LINES = 150
CPU_COUNT = 4
MEMORY_MIB = 768
HOST_ADDRESS = "10.0.2.2"


@dataclasses.dataclass
class Result:
    """How a script in the guest ended: its status, its output (both streams) and how long it took."""

    status: int
    output: str
    seconds: float


class Machine:
    """One guest. Start it with boot(), end it with close(); sh() runs a script in it."""

    def __init__(self, kernel, initramfs, work_dir):
        self._kernel = kernel
        self._initramfs = initramfs
        self._work = pathlib.Path(work_dir)
        self._process = None
        self._socket = None
        self._buffer = b""
        self._next_id = 1

    def boot(self):
        """Starts QEMU and waits until the guest takes scripts; returns the seconds that took."""
        for _ in range(BOOT_ATTEMPTS - 1):
            try:
                return self._boot_once()
            except Failure as failure:
                print(f"{failure}; starting it again\n{self.console()}", flush=True)
                self.close()
        return self._boot_once()

    def _boot_once(self):
        started = time.monotonic()
        qemu = find_tool("qemu-system-x86_64", "qemu-system-x86")
        agent = self._work / "agent.sock"
        agent.unlink(missing_ok=True)
        append = "console=ttyS0 loglevel=5 panic=1 net.ifnames=0 mitigations=off tsc=reliable"
        with open(self._work / "qemu.log", "wb") as log:
            # A test that is killed must not leave a guest behind.
            self._process = subprocess.Popen(
                [qemu, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
                 "-accel", os.environ.get("FDB_NBD_VM_ACCEL", "tcg"),
                 "-smp", str(CPU_COUNT), "-m", str(MEMORY_MIB),
                 "-kernel", str(self._kernel.image), "-initrd", str(self._initramfs), "-append", append,
                 "-serial", f"file:{self._work / 'console.log'}",
                 "-chardev", f"socket,id=agent,path={agent},server=on,wait=on",
                 "-device", "virtio-serial-pci", "-device", "virtserialport,chardev=agent",
                 # Segments and checksums in QEMU rather than in the emulated CPU: much faster than virtio-net here.
                 "-netdev", "user,id=n0", "-device", "vmxnet3,netdev=n0,romfile="],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=die_with_parent)
        deadline = started + BOOT_TIMEOUT_S
        while self._socket is None:
            self._check_alive()
            attempt = socket.socket(socket.AF_UNIX)
            try:
                attempt.connect(str(agent))
                self._socket = attempt
            except OSError:
                attempt.close()
                if time.monotonic() > deadline:
                    raise Failure("QEMU did not open its serial line") from None
                time.sleep(0.05)
        while not self._read_line(deadline, "the guest's boot").startswith(b"ready "):
            pass
        return time.monotonic() - started

    def sh(self, script, timeout_s=60, check=True):
        """Runs a shell script in the guest. With check, a status other than 0 is a Failure."""
        ident = b"%d" % self._next_id
        self._next_id += 1
        started = time.monotonic()
        encoded = base64.b64encode(script.encode())
        self._socket.sendall(b"%s %d %s\n" % (ident, timeout_s, encoded))
        deadline = started + timeout_s + GRACE_S
        what = f"this script in the guest: {script.strip()}"
        while self._read_line(deadline, what) != b"begin " + ident:
            pass
        lines = []
        while True:
            line = self._read_line(deadline, what)
            if line.startswith(b"end " + ident + b" "):
                break
            lines.append(line)
        result = Result(int(line.split()[2]), base64.b64decode(b"".join(lines)).decode(errors="replace"),
                        time.monotonic() - started)
        if check and result.status != 0:
            raise Failure(f"status {result.status} after {result.seconds:.1f} s (limit {timeout_s} s) from {what}\n"
                          f"its output:\n{tail(result.output, 60)}")
        return result

    def console(self):
        """The end of what the guest's kernel printed, and of what QEMU did."""
        texts = []
        for name in ("qemu.log", "console.log"):
            path = self._work / name
            if path.exists():
                texts.append(f"--- {name}\n" + tail(path.read_text(errors="replace"), CONSOLE_TAIL_LINES))
        return "\n".join(texts)

    def close(self):
        """Ends QEMU, whatever the guest does."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self._buffer = b""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _check_alive(self):
        if self._process.poll() is not None:
            raise Failure(f"QEMU ended with status {self._process.returncode}")

    def _read_line(self, deadline, what):
        while b"\n" not in self._buffer:
            self._check_alive()
            left = deadline - time.monotonic()
            if left <= 0:
                raise Failure(f"no answer in time from {what}")
            if select.select([self._socket], [], [], min(left, 1.0))[0]:
                received = self._socket.recv(65536)
                if not received:
                    raise Failure(f"the guest died during {what}")
                self._buffer += received
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.strip()
