#!/usr/bin/python3
"""Starts a FoundationDB of one process in a directory of its own and runs the conformance suite on it.

usage: cluster_test.py PROGRAM [gtest options]; exit status 77 where FoundationDB is not installed.
"""
import ctypes.util
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time

SKIPPED = 77
LIBRARIES = ["/usr/lib/libfdb_c.so", "/usr/lib64/libfdb_c.so", "/usr/local/lib/libfdb_c.so"]


def find_tool(name):
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def main():
    server, cli = find_tool("fdbserver"), find_tool("fdbcli")
    library = os.environ.get("FDB_NBD_FDB_LIBRARY") or ctypes.util.find_library("fdb_c")
    library = library or next((path for path in LIBRARIES if os.path.exists(path)), None)
    if not (server and cli and library):
        print("skipped: fdbserver, fdbcli or libfdb_c.so is not installed (packages foundationdb-server, -clients)")
        return SKIPPED
    with tempfile.TemporaryDirectory(prefix="fdb-nbd-cluster-") as directory:
        root = pathlib.Path(directory)
        address = f"127.0.0.1:{free_port()}"
        cluster_file = root / "fdb.cluster"
        cluster_file.write_text(f"test:test@{address}\n")
        for name in ("data", "log"):
            (root / name).mkdir()
        with open(root / "server.out", "wb") as output:
            process = subprocess.Popen(
                [server, "-p", address, "-l", "public", "-C", cluster_file, "-d", root / "data", "-L", root / "log",
                 "--knob_min_trace_severity=20"], stdout=output, stderr=output)
        try:
            deadline = time.monotonic() + 60
            while True:
                configured = subprocess.run(
                    [cli, "-C", cluster_file, "--exec", "configure new single memory", "--timeout", "10"],
                    capture_output=True, text=True, check=False)
                if configured.returncode == 0 or "already" in configured.stdout:
                    break
                if process.poll() is not None or time.monotonic() > deadline:
                    print((root / "server.out").read_text(), configured.stdout, configured.stderr)
                    return 1
                time.sleep(0.2)
            environment = dict(os.environ, FDB_NBD_TEST_CLUSTER_FILE=str(cluster_file))
            return subprocess.run(sys.argv[1:], env=environment, check=False).returncode
        finally:
            process.kill()
            process.wait()


if __name__ == "__main__":
    sys.exit(main())
