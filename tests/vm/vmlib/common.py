"""Errors, paths and small helpers that every part shares."""

import ctypes
import os
import pathlib
import shutil
import signal

# The administrator's tools are not on every user's PATH.
SEARCH_PATH = os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin"


class Skip(Exception):
    """Something this machine lacks; the message says what and how to get it."""


class Failure(Exception):
    """A step did not do what the scenario expects; the message says which and how."""


def find_tool(name, package):
    """The path of a host program, or Skip naming the Debian package that has it."""
    path = shutil.which(name, path=SEARCH_PATH)
    if path is None:
        raise Skip(f"{name} is not installed (Debian package {package})")
    return path


_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


def die_with_parent():
    """Run in a child before it executes its program: SIGKILL reaches it when this process ends, however it ends."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def cache_dir():
    """Where the kernel and the built helper are kept between runs."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    path = pathlib.Path(base) / "fdb-nbd-vm"
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Skip(f"cannot make the cache directory {path}: {error.strerror}") from error
    return path


def tail(text, line_count):
    """The last line_count lines of text."""
    return "\n".join(text.splitlines()[-line_count:])
