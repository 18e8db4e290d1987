"""Builds the guest's only file system: busybox, the NBD and ext4 tools, modules, the tree to copy."""

import hashlib
import os
import pathlib
import re
import shutil
import subprocess
import tempfile

from . import cpio, tree
from .common import SEARCH_PATH, Skip, cache_dir, find_tool

GUEST = pathlib.Path(__file__).resolve().parent.parent / "guest"
MODULES = ["virtio_pci", "virtio_console", "vmxnet3", "crc32c-intel", "libcrc32c", "nbd"]
TOOLS = [("nbd-client", "nbd-client"), ("mkfs.ext4", "e2fsprogs"), ("e2fsck", "e2fsprogs"), ("resize2fs", "e2fsprogs")]
NBD_MAX_DEVICES = 16


def _shared_libraries(program):
    """The loader and the libraries of a program, as absolute paths."""
    listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    return re.findall(r"(/\S+) \(0x", listed)


def _compile(source):
    """A static build of a guest program, kept in the cache under the hash of its source."""
    digest = hashlib.sha256(source.read_bytes()).hexdigest()[:16]
    target = cache_dir() / f"{source.stem}-{digest}"
    if not target.exists():
        candidates = [os.environ.get("CC"), "cc", "gcc", "clang-19", "clang"]
        compiler = next((c for c in candidates if c and shutil.which(c, path=SEARCH_PATH)), None)
        if compiler is None:
            raise Skip("no C compiler (Debian package gcc)")
        with tempfile.TemporaryDirectory(dir=cache_dir()) as work:
            built = pathlib.Path(work) / source.stem
            done = subprocess.run([compiler, "-std=gnu11", "-O1", "-static", "-Wall", "-Wextra", "-Werror",
                                   str(source), "-o", str(built)], capture_output=True, text=True)
            if done.returncode != 0:
                raise RuntimeError(f"{compiler} cannot build {source.name}:\n{done.stderr}")
            os.replace(built, target)
    return target.read_bytes()


def build(kernel, out_path, program):
    """Writes the initramfs for a kernel to out_path. `program` is the fdb-nbd that the guest has."""
    busybox = find_tool("busybox", "busybox-static")
    applets = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split()
    if b"\x7fELF" == pathlib.Path(busybox).read_bytes()[:4] and _is_dynamic(busybox):
        raise Skip(f"{busybox} is not static (Debian package busybox-static)")
    files = tree.make_tree()
    with open(out_path, "wb") as out:
        archive = cpio.Archive(out)
        for name in ("proc", "sys", "tmp", "mnt"):
            archive.directory(name)
        archive.character_device("dev/console", 5, 1)
        archive.file("bin/busybox", pathlib.Path(busybox).read_bytes(), 0o755)
        for applet in applets:
            if applet != "busybox":
                archive.symlink(f"bin/{applet}", "busybox")
        copied = set()
        tools = [(name, find_tool(name, package)) for name, package in TOOLS]
        for name, path in [*tools, ("fdb-nbd", program)]:
            archive.file(f"sbin/{name}", pathlib.Path(path).read_bytes(), 0o755)
            for library in _shared_libraries(path):
                if library not in copied:
                    copied.add(library)
                    archive.file(library, pathlib.Path(library).read_bytes(), 0o755)
        if os.path.exists("/etc/mke2fs.conf"):
            archive.file("etc/mke2fs.conf", pathlib.Path("/etc/mke2fs.conf").read_bytes())
        archive.symlink("etc/mtab", "/proc/mounts")
        archive.file("sbin/nbd-netlink", _compile(GUEST / "nbd_netlink.c"), 0o755)
        order = []
        for name, content in kernel.module_chain(MODULES):
            archive.file(f"modules/{name}", content)
            order.append(name)
        archive.file("modules/order", ("\n".join(order) + "\n").encode())
        archive.file("init", (GUEST / "init").read_bytes(), 0o755)
        for path, content in files:
            archive.file(f"tree/{path}", content)
        archive.file("tree.sha256", tree.checksum_list(files))
        archive.finish()


def _is_dynamic(program):
    return subprocess.run(["ldd", program], capture_output=True, text=True).returncode == 0
