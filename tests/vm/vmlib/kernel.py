"""Finds or fetches Debian's cloud kernel and resolves the modules the guest needs."""

import dataclasses
import fcntl
import lzma
import os
import pathlib
import re
import shutil
import subprocess

from .common import Skip, cache_dir, find_tool

META_PACKAGE = "linux-image-cloud-amd64"
FETCH_TIMEOUT_S = 300
UNPACKED = "unpacked"


@dataclasses.dataclass
class Kernel:
    """An unpacked kernel package: the image, its release and the directory of its modules."""

    image: pathlib.Path
    release: str
    modules: pathlib.Path

    def module_chain(self, names):
        """(file name, content) of the named modules and all they depend on, in the order to load."""
        files = {}
        for path in self.modules.rglob("*.ko*"):
            files[path.name.split(".ko")[0].replace("-", "_")] = path
        chain = {}

        def add(name):
            name = name.replace("-", "_")
            if name in chain or name not in files:
                # What is not a file is built into this kernel.
                return
            content = files[name].read_bytes()
            if files[name].suffix == ".xz":
                content = lzma.decompress(content)
            depends = re.search(rb"\0depends=([^\0]*)\0", content)
            for needed in depends.group(1).decode().split(",") if depends else []:
                if needed:
                    add(needed)
            chain[name] = content

        for name in names:
            add(name)
        return [(name + ".ko", content) for name, content in chain.items()]


def _open(directory):
    images = sorted((directory / "boot").glob("vmlinuz-*"))
    if not images:
        return None
    release = images[-1].name[len("vmlinuz-"):]
    for prefix in ("lib/modules", "usr/lib/modules"):
        if (directory / prefix / release).is_dir():
            return Kernel(images[-1], release, directory / prefix / release)
    return None


def _cached(cache):
    found = [_open(path) for path in sorted(cache.glob(f"linux-image-*.{UNPACKED}"))]
    found = [kernel for kernel in found if kernel is not None]
    return max(found, key=lambda k: [int(n) for n in re.findall(r"\d+", k.release)], default=None)


def _fetch(cache):
    apt_cache = find_tool("apt-cache", "apt")
    apt_get = find_tool("apt-get", "apt")
    unpack = find_tool("dpkg-deb", "dpkg")
    depends = subprocess.run([apt_cache, "depends", META_PACKAGE], capture_output=True, text=True)
    match = re.search(r"Depends: (linux-image-\S+-cloud-amd64)$", depends.stdout, re.MULTILINE)
    if not match:
        raise Skip(f"apt knows no package {META_PACKAGE} (run apt-get update, or use a Debian amd64 machine)")
    package = match.group(1)
    work = cache / f"fetch-{os.getpid()}"
    work.mkdir()
    try:
        try:
            got = subprocess.run([apt_get, "download", package], cwd=work, capture_output=True, text=True,
                                 timeout=FETCH_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise Skip(f"apt-get download {package} took more than {FETCH_TIMEOUT_S} s") from None
        archives = list(work.glob("*.deb"))
        if got.returncode != 0 or not archives:
            reason = got.stderr.strip().splitlines() or ["no message"]
            raise Skip(f"apt-get download {package} failed: {reason[-1]} (run apt-get update, check the network)")
        subprocess.run([unpack, "-x", str(archives[0]), str(work / "tree")], check=True)
        target = cache / f"{package}.{UNPACKED}"
        shutil.rmtree(target, ignore_errors=True)
        # Renamed last, so that a directory of this name is always whole.
        os.rename(work / "tree", target)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def get_kernel():
    """The kernel in FDB_NBD_VM_KERNEL, else the newest one cached, else Debian's current one, fetched."""
    chosen = os.environ.get("FDB_NBD_VM_KERNEL")
    if chosen:
        kernel = _open(pathlib.Path(chosen))
        if kernel is None:
            raise Skip(f"FDB_NBD_VM_KERNEL={chosen} has no boot/vmlinuz-* with its lib/modules")
        return kernel
    cache = cache_dir()
    with open(cache / "lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        kernel = _cached(cache)
        if kernel is None:
            _fetch(cache)
            kernel = _cached(cache)
    if kernel is None:
        raise Skip(f"the package {META_PACKAGE} has no kernel image where one is expected")
    return kernel
