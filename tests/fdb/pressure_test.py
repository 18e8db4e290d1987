#!/usr/bin/python3
"""Full-rate streams on one volume leave FoundationDB usable for its other clients.

A sequential and a random stream of writes run on one volume for FDB_NBD_PRESSURE_SECONDS (default 60), while another
client of the cluster asks for read versions and reads. Then the same with every commit waiting for a read version
first, which is as fast as a client that the cluster holds back can be. Exit status 77 where something is missing.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "integration"))
sys.dont_write_bytecode = True

import fdb_cluster  # noqa: E402
import probe_client  # noqa: E402
from lib import GiB, MiB, Server  # noqa: E402

SECONDS = int(os.environ.get("FDB_NBD_PRESSURE_SECONDS", "60"))
# The comparison is a rate, which an hour does not tell better than this. Less than a minute would end while the
# cluster, which has been given all it takes, gives hardly any read versions.
COMPARED_SECONDS = min(max(SECONDS, 60), 300)
RANGE_BYTES = 512 * MiB
READ_VERSION_P99_LIMIT_S = 0.100
READ_P99_LIMIT_S = 0.050
THROUGHPUT_SHARE = 0.8


def start_streams(server, seconds):
    common = ["fio", "--ioengine=nbd", f"--uri={server.uri()}", "--output-format=json", "--time_based",
              f"--runtime={seconds}"]
    streams = [
        ["--name=sequential", "--rw=write", "--bs=1M", "--iodepth=8", f"--size={RANGE_BYTES}"],
        ["--name=random", "--rw=randwrite", "--bs=4k", "--iodepth=32", "--norandommap", f"--size={RANGE_BYTES}",
         f"--offset={RANGE_BYTES}"],
    ]
    return [subprocess.Popen(common + stream, stdout=subprocess.PIPE, text=True) for stream in streams]


def bytes_per_second(process, seconds):
    try:
        output, _ = process.communicate(timeout=seconds + 300)
    finally:
        process.kill()
    if process.returncode != 0:
        raise RuntimeError(f"fio ended with status {process.returncode}: {output[-500:]}")
    return json.loads(output[output.index("{"):])["jobs"][0]["write"]["bw_bytes"]


def run_streams(cluster, pacing, seconds, probe=None):
    """The rates of both streams, in bytes a second, until what they wrote is on the disk: the queue before it holds as much
    as a slow disk takes in a minute, which a short run would be given for nothing and an hour hardly sees.
    """
    os.environ["FDB_NBD_FDB_PACING"] = pacing
    with Server(volumes={"disk": 1 * GiB}, store=f"fdb:{cluster.cluster_file}", tcp=False) as server:
        if probe:
            probe.start()
        rates = [bytes_per_second(process, seconds) for process in start_streams(server, seconds)]
        ended = time.monotonic()
        if probe:
            probe.stop()
        # Letting the volume go may have to wait for a read version, too.
        server.stop(within=120)
    cluster.settle()
    return [rate * seconds / (seconds + time.monotonic() - ended) for rate in rates]


def describe(rates):
    sequential, random = rates
    return f"sequential {sequential / 1e6:.1f} MB/s, random {random / 4096:.0f}/s"


def missing():
    if not shutil.which("fio"):
        return "fio is not installed"
    return fdb_cluster.missing()


def main():
    reason = missing()
    if reason:
        print(f"skipped: {reason}")
        return fdb_cluster.SKIPPED
    problems = []

    def expect(what, got, limit, unit, at_most=True):
        print(f"{what}: {got:.1f} {unit} (limit {limit:.1f})", flush=True)
        if (got > limit) if at_most else (got < limit):
            problems.append(what)

    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory, fdb_cluster.Cluster(directory=directory) as cluster:
        run_streams(cluster, "beside", 5)   # fills the range, so that both runs overwrite
        probe = probe_client.Probe(cluster.cluster_file)
        paced = run_streams(cluster, "beside", SECONDS, probe)
        print(f"paced beside: {describe(paced)}; {len(probe.read_times_s)} probes", flush=True)
        other = probe_client.Probe(cluster.cluster_file)
        waiting = run_streams(cluster, "before", COMPARED_SECONDS, other)
        print(f"each commit waits for a read version first: {describe(waiting)}; read version p99 "
              f"{1000 * probe_client.percentile(other.version_times_s, 99):.1f} ms, read p99 "
              f"{1000 * probe_client.percentile(other.read_times_s, 99):.1f} ms", flush=True)
        if probe.errors:
            problems.append(f"errors of the other client: {sorted(set(probe.errors))}")
        expect("read version of another client, median", 1000 * probe_client.percentile(probe.version_times_s, 50),
               1000 * READ_VERSION_P99_LIMIT_S, "ms")
        expect("read version of another client, p99", 1000 * probe_client.percentile(probe.version_times_s, 99),
               1000 * READ_VERSION_P99_LIMIT_S, "ms")
        expect("read of another client, p99", 1000 * probe_client.percentile(probe.read_times_s, 99),
               1000 * READ_P99_LIMIT_S, "ms")
        expect("bytes written, share of what a held back client writes", 100 * sum(paced) / sum(waiting),
               100 * THROUGHPUT_SHARE, "%", at_most=False)
    for problem in problems:
        print(f"FAILED: {problem}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
