#!/usr/bin/python3
"""Starts a FoundationDB of one process in a directory of its own and runs the conformance suite on it.

usage: cluster_test.py PROGRAM [gtest options]; exit status 77 where FoundationDB is not installed.
"""

import os
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
sys.dont_write_bytecode = True

import fdb_cluster  # noqa: E402


def main():
    reason = fdb_cluster.missing()
    if reason:
        print(f"skipped: {reason}")
        return fdb_cluster.SKIPPED
    with fdb_cluster.Cluster(engine="memory") as cluster:
        environment = dict(os.environ, FDB_NBD_TEST_CLUSTER_FILE=str(cluster.cluster_file))
        return subprocess.run(sys.argv[1:], env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
