#!/usr/bin/python3
"""A cluster that stops answering, under a server with a client. Needs a FoundationDB of its own; see with_cluster.py for what is skipped."""

import os
import signal
import subprocess
import sys
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import fdb_cluster  # noqa: E402

sys.path.insert(0, os.path.join(os.path.dirname(HERE), "integration"))
if fdb_cluster.missing():
    print(f"skipped: {fdb_cluster.missing()}")
    sys.exit(fdb_cluster.SKIPPED)

from lib import *   # noqa: F403,E402
from lib import MiB, Server, eventually, expect, expect_data, expect_equal, fdb_nbd, main, pattern, test   # noqa: E402

LEASE_S = 2
UNREACHABLE = 7


def store_of(cluster, name):
    return f"fdb:{cluster.cluster_file}?prefix={name}"


def serve(cluster, name, *args):
    return Server(volumes={"disk": 64 * MiB}, store=store_of(cluster, name), tcp=False, args=["--lease", str(LEASE_S), *args])


class Writer(threading.Thread):
    """Writes block after block until it is told to stop or gets an error."""

    def __init__(self, server):
        super().__init__()
        self.wire = server.session(timeout=120)
        self.written, self.error, self.done = 0, None, False

    def run(self):
        try:
            while not self.done:
                self.wire.write(self.written % 1000 * 4096, pattern(4096, self.written))
                self.written += 1
        except Exception as error:   # the test looks at it
            self.error = error


@test(limit=120)
def a_stall_that_is_longer_than_the_lease_is_a_pause_and_no_error():
    with fdb_cluster.Cluster("memory") as cluster, serve(cluster, "a") as server:
        writer = Writer(server)
        writer.start()
        eventually("some writes", lambda: writer.written > 20)
        cluster.processes[0].pause()
        # Somebody else wants the volume all the while.
        rival = subprocess.Popen([os.environ["FDB_NBD"], "--store", store_of(cluster, "a"), "resize", "disk", "128M"],
                                 stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        time.sleep(5 * LEASE_S)
        before = writer.written
        cluster.processes[0].resume()
        eventually("writes after the stall", lambda: writer.written > before + 20 or writer.error, within=30)
        writer.done = True
        writer.join()
        expect_equal("the writer's error", writer.error, None)
        rival.wait(60)
        expect("the rival", rival.returncode in (5, UNREACHABLE), "busy or unreachable", rival.returncode)
        expect("the log", "has not answered" in server.log_tail(100) or 5 * LEASE_S < 10, "the stall", server.log_tail())
        expect_data("the last block", writer.wire.read((writer.written - 1) % 1000 * 4096, 4096), pattern(4096, writer.written - 1))


@test(limit=180)
def a_server_is_ended_by_sigterm_though_the_cluster_is_dead_and_nothing_is_lost():
    with fdb_cluster.Cluster("memory") as cluster:
        server = serve(cluster, "b")
        try:
            writer = Writer(server)
            writer.start()
            eventually("some writes", lambda: writer.written > 20)
            cluster.processes[0].pause()
            time.sleep(1)
            answered = writer.written
            server.process.send_signal(signal.SIGTERM)
            expect_equal("exit status", server.process.wait(60), UNREACHABLE)
            writer.join(60)
            expect("the writer", writer.error is not None, "an ended connection", "no error")
        finally:
            cluster.processes[0].resume()
            server.kill()
            server.remove()
        started = time.monotonic()
        with serve(cluster, "b") as other, other.session(timeout=60) as wire:
            expect("the other server", time.monotonic() - started < 10 * LEASE_S, f"within {10 * LEASE_S} s", time.monotonic() - started)
            for number in range(answered):
                expect_data(f"block {number}", wire.read(number * 4096, 4096), pattern(4096, number))
            wire.disconnect()
        fdb_nbd("check", store=store_of(cluster, "b"))


if __name__ == "__main__":
    main()
