#!/usr/bin/python3
"""Processes of a `double` cluster are killed, paused and restarted under load: nothing is lost, and no request fails.

Two kinds of load at once, on a volume each: clients whose whole history is checked (registers.py), and fio with verification. The longest time without a reply
is measured in each round. FDB_NBD_FAULT_ROUNDS sets the number of rounds (3 where it is not set), FDB_NBD_SEED what happens in them.
"""

import os
import random
import signal
import statistics
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "integration"))
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
sys.dont_write_bytecode = True

import fdb_cluster   # noqa: E402
import registers   # noqa: E402
from cluster_faults import Faults   # noqa: E402
from lib import *   # noqa: F403,E402
from lib import Failure, Server, Skip, main, test   # noqa: E402
from registers import FOREVER   # noqa: E402
from stamping_clients import VOLUME_BYTES, Client, History   # noqa: E402

ROUNDS = int(os.environ.get("FDB_NBD_FAULT_ROUNDS") or 3)
CLIENTS = 2
# Longer than any recovery; a client that gives up shows as requests without a reply.
PATIENCE_S = 120
FIO_VOLUME_BYTES = 64 * MiB
FIO_STOPPED_STATUS = 128   # after SIGINT
PERCENTILE = 0.99


def start_fio(server):
    """Writes and verifies until SIGINT, and says `err=` with the number of the error where a request failed or read something else."""
    return subprocess.Popen(["fio", "--name=verify", "--ioengine=nbd", f"--uri={server.uri('fio')}", "--rw=randwrite", "--bs=4k", "--iodepth=4",
                             f"--size={FIO_VOLUME_BYTES}", "--verify=crc32c", "--verify_backlog=128", "--verify_fatal=1", "--time_based",
                             "--runtime=86400", "--rate_iops=400"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=server.directory)


def longest_gap_s(history, since, until):
    """The longest time without a reply that began in [since, until]."""
    ends = sorted(op.end for op in list(history.ops) if op.end != FOREVER and since <= op.end)
    times = [since] + [end for end in ends if end <= until] + [min((end for end in ends if end > until), default=until)]
    return max(later - earlier for earlier, later in zip(times, times[1:]))


def wait_for_replies(history, server):
    since = time.monotonic()
    while history.last_acknowledged[0] <= since:
        expect("after the cluster has recovered", time.monotonic() - since < PATIENCE_S, f"an acknowledged write within {PATIENCE_S} s", server.log_tail())
        time.sleep(0.02)


def under_faults(server, faults, history):
    """The pause of each round."""
    pauses_s = []
    wait_for_replies(history, server)
    for number in range(ROUNDS):
        began = time.monotonic()
        what = faults.one()
        healthy = time.monotonic()
        wait_for_replies(history, server)
        pauses_s.append(longest_gap_s(history, began, healthy))
        print(f"round {number}: {what}: {pauses_s[-1]:.2f} s without a reply, whole again after {healthy - began:.1f} s", flush=True)
        failed = [op for op in list(history.ops) if op.end != FOREVER and not op.is_ok]
        expect("requests that failed", not failed, "none", failed[:3])
    return pauses_s


@test(limit=300 + 90 * ROUNDS)
def processes_of_the_cluster_end_and_come_back_and_no_request_notices():
    if fdb_cluster.missing():
        raise Skip(fdb_cluster.missing())
    requires("fio")
    chance = random.Random(random_seed())
    history = History()
    with fdb_cluster.Cluster("ssd", processes=5) as cluster, \
            Server(volumes={"disk": VOLUME_BYTES, "fio": FIO_VOLUME_BYTES}, store=f"fdb:{cluster.cluster_file}?prefix=faults", tcp=False) as server:
        clients = [Client(server, 0, history, chance.random(), PATIENCE_S) for _ in range(CLIENTS)]
        for client in clients:
            client.start()
        fio = start_fio(server)
        try:
            pauses_s = under_faults(server, Faults(cluster, chance), history)
            expect_equal("exit status of fio (None: it runs)", fio.poll(), None)
        finally:
            fio.send_signal(signal.SIGINT)
            printed = fio.communicate()[0]
            for client in clients:
                client.stopping.set()
            for client in clients:
                client.join()
        expect("what fio says", fio.returncode == FIO_STOPPED_STATUS and "err= 0" in printed, "err= 0", f"exit status {fio.returncode}\n{printed[-2000:]}")
        unanswered = [op for op in history.ops if op.end == FOREVER]
        expect("requests without a reply", not unanswered and not history.wrong, "none", history.wrong or unanswered[:3])
        expect_equal("what is wrong with the history", registers.find_violation(history.ops), None)
        server.stop(within=60)
        fdb_nbd("check", store=server.store)
    pauses_s.sort()
    print(f"{ROUNDS} rounds, {len(history.ops)} requests; pause: median {statistics.median(pauses_s):.2f} s, "
          f"p99 {pauses_s[min(int(len(pauses_s) * PERCENTILE), len(pauses_s) - 1)]:.2f} s, max {pauses_s[-1]:.2f} s")


if __name__ == "__main__":
    main()
