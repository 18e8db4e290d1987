#!/usr/bin/python3
"""Full-rate streams on one volume leave FoundationDB usable for its other clients.

A sequential and a random stream of writes run on one volume for FDB_NBD_PRESSURE_SECONDS (default 60), while another
client of the cluster asks for read versions and reads. Then the same with every commit waiting for a read version
first, which is as fast as a client that the cluster holds back can be. Exit status 77 where something is missing.

A run of no more than a minute is about the guard, without which the other client waits for seconds: it allows for a slow
disk, whose stalls are most of one per cent of a minute, and is repeated when it fails. A longer run is held to the limits.
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
IS_SHORT = SECONDS <= 60
ATTEMPTS = 3 if IS_SHORT else 1
# A short run's reads may take this many times what they take beside the client that the cluster holds back, and at most
# this many times the limit: that client's own queue makes reads slow on a fast disk, too.
SLOW_DISK_FACTOR = 2


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


def percentile_ms(times_s, percent):
    return 1000 * probe_client.percentile(times_s, percent)


def measure(cluster):
    """Streams beside the other client and the same streams held back; what is beyond its limit."""
    probe, other = probe_client.Probe(cluster.cluster_file), probe_client.Probe(cluster.cluster_file)
    paced = run_streams(cluster, "beside", SECONDS, probe)
    print(f"paced beside: {describe(paced)}; {len(probe.read_times_s)} probes", flush=True)
    waiting = run_streams(cluster, "before", COMPARED_SECONDS, other)
    held_back_read_ms = percentile_ms(other.read_times_s, 99)
    print(f"each commit waits for a read version first: {describe(waiting)}; read version p99 "
          f"{percentile_ms(other.version_times_s, 99):.1f} ms, read p99 {held_back_read_ms:.1f} ms", flush=True)

    problems = []

    def expect(what, got, limit, unit, at_most=True):
        print(f"{what}: {got:.1f} {unit} (limit {limit:.1f})", flush=True)
        if (got > limit) if at_most else (got < limit):
            problems.append(what)

    read_limit_ms = 1000 * READ_P99_LIMIT_S
    if IS_SHORT:
        read_limit_ms = min(max(read_limit_ms, SLOW_DISK_FACTOR * held_back_read_ms), SLOW_DISK_FACTOR * read_limit_ms)
    if probe.errors:
        problems.append(f"errors of the other client: {sorted(set(probe.errors))}")
    for percent in 50, 99:
        expect(f"read version of another client, p{percent}", percentile_ms(probe.version_times_s, percent),
               1000 * READ_VERSION_P99_LIMIT_S, "ms")
    expect("read of another client, p99", percentile_ms(probe.read_times_s, 99), read_limit_ms, "ms")
    expect("bytes written, share of what a held back client writes", 100 * sum(paced) / sum(waiting),
           100 * THROUGHPUT_SHARE, "%", at_most=False)
    return problems


def main():
    reason = missing()
    if reason:
        print(f"skipped: {reason}")
        return fdb_cluster.SKIPPED
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory, fdb_cluster.Cluster(directory=directory) as cluster:
        run_streams(cluster, "beside", 5)   # so that the first measured run is not the first one at all
        for attempt in range(1, ATTEMPTS + 1):
            problems = measure(cluster)
            if not problems:
                return 0
            print(f"attempt {attempt} of {ATTEMPTS}, beyond the limit: {'; '.join(problems)}", flush=True)
    return 1


if __name__ == "__main__":
    sys.exit(main())
