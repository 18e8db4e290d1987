#!/usr/bin/python3
"""Starts a FoundationDB in a directory of its own and runs a program beside it.

    with_cluster.py [--engine memory|ssd] [--processes N] [--buggify] [--faults] PROGRAM [ARGUMENT…]

The program finds the cluster file in FDB_NBD_TEST_CLUSTER_FILE; {CLUSTER} in an argument or a variable of the environment stands for it. Black-box
tests (tests/integration/lib.py) put their stores there. --buggify makes the client library misbehave as FoundationDB allows it to. --faults kills,
pauses and restarts processes of the cluster (--processes 5) as long as the program runs; FDB_NBD_SEED repeats what it did.
Exit status 77 where FoundationDB is not installed.
"""

import argparse
import os
import random
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
sys.dont_write_bytecode = True

import cluster_faults  # noqa: E402
import fdb_cluster  # noqa: E402

# Every place in the library that can misbehave may do so, and does one time in twenty.
BUGGIFY = {"CLIENT_BUGGIFY_ENABLE": "", "CLIENT_BUGGIFY_SECTION_ACTIVATED_PROBABILITY": "100", "CLIENT_BUGGIFY_SECTION_FIRED_PROBABILITY": "5"}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", default="ssd")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--buggify", action="store_true")
    parser.add_argument("--faults", action="store_true")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    args = parser.parse_args()
    reason = fdb_cluster.missing()
    if reason:
        print(f"skipped: {reason}")
        return fdb_cluster.SKIPPED
    with fdb_cluster.Cluster(args.engine, processes=args.processes) as cluster:
        path = str(cluster.cluster_file)
        environment = {name: value.replace("{CLUSTER}", path) for name, value in os.environ.items()}
        environment["FDB_NBD_TEST_CLUSTER_FILE"] = path
        if args.buggify:
            environment |= {f"FDB_NETWORK_OPTION_{name}": value for name, value in BUGGIFY.items()}
        command = [argument.replace("{CLUSTER}", path) for argument in args.command]
        if not args.faults:
            return subprocess.run(command, env=environment, check=False).returncode
        with subprocess.Popen(command, env=environment) as program:
            return under_faults(cluster, program)


def under_faults(cluster, program):
    seed = int(os.environ.get("FDB_NBD_SEED") or int.from_bytes(os.urandom(4), "big"))
    print(f"faults: FDB_NBD_SEED={seed}", flush=True)
    faults = cluster_faults.Faults(cluster, random.Random(seed))
    while program.poll() is None:
        print(f"faults: {faults.one()}", flush=True)
    return program.returncode


if __name__ == "__main__":
    sys.exit(main())
