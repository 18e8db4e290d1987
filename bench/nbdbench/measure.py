"""Runs the loads on the servers in turn and keeps what each run measured."""

import os
import statistics
import threading
import time

from nbdbench import loads as fio
from nbdbench import machine
from nbdbench.servers import BASELINE_SUFFIX

SAMPLE_INTERVAL_S = 0.2
SETTLE_WINDOW_S = 0.25
SETTLE_IDLE_CPU_S = 0.02
SETTLE_LIMIT_S = 5

FIO_LIMIT_CORES = 0.85
MACHINE_FULL_SHARE = 0.9
OTHERS_SHARE = 0.1
DEFERRED_SHARE = 0.1


class MemorySampler:
    """Largest private memory of a process tree between start and stop."""

    def __init__(self, pid):
        self.pid = pid
        self.max_bytes = 0
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *exception):
        self.stopped.set()
        self.thread.join()

    def run(self):
        while True:
            self.max_bytes = max(self.max_bytes, machine.resident_bytes(self.pid))
            if self.stopped.wait(SAMPLE_INTERVAL_S):
                return


def settle(pid):
    """Waits until the server is idle: what it still does after the last answer (compaction, write-back) is part of the
    cost of the load and must not fall into the next server's turn."""
    start = time.monotonic()
    before = machine.cpu_seconds(pid)
    while time.monotonic() - start < SETTLE_LIMIT_S:
        time.sleep(SETTLE_WINDOW_S)
        after = machine.cpu_seconds(pid)
        if after - before <= SETTLE_IDLE_CPU_S:
            return
        before = after


def run_once(load, server, settings, round_index, cores):
    command = fio.load_command(
        load,
        server.uri,
        settings["range_bytes"],
        settings["seconds"],
        round_index + 1,
        settings["compress_percent"],
    )
    os.sync()
    settle(server.pid)
    cpu_before, busy_before, start = machine.cpu_seconds(server.pid), machine.busy_seconds(), time.monotonic()
    with MemorySampler(server.pid) as memory:
        job = fio.run_fio(command, settings["seconds"])
    wall_s, busy_s = time.monotonic() - start, machine.busy_seconds() - busy_before
    cpu_during = machine.cpu_seconds(server.pid) - cpu_before
    settle(server.pid)
    result = fio.figures(load, job)
    cpu_total = machine.cpu_seconds(server.pid) - cpu_before
    result.update(
        load=load.name,
        server=server.name,
        round=round_index,
        server_cpu_s=round(cpu_total, 2),
        server_cpu_after_s=round(cpu_total - cpu_during, 2),
        server_cores=round(cpu_during / max(result["seconds"], 1e-3), 3),
        operations_per_cpu_s=round(result["operations"] / cpu_total, 1) if cpu_total > 0 else None,
        max_rss_bytes=memory.max_bytes,
        machine_busy_share=round(busy_s / wall_s / cores, 3),
    )
    result["marks"] = marks(result, load.jobs, cores)
    return result


def marks(result, jobs, cores):
    """One letter for each thing that makes a figure say less about the server than it seems to."""
    found = ""
    if result["fio_cores"] > FIO_LIMIT_CORES * jobs:
        found += "f"
    if result["fio_cores"] + result["server_cores"] > MACHINE_FULL_SHARE * cores:
        found += "m"
    others = result["machine_busy_share"] * cores - result["fio_cores"] - result["server_cores"]
    if others > OTHERS_SHARE * cores:
        found += "o"
    if result["server_cpu_after_s"] > DEFERRED_SHARE * max(result["server_cpu_s"], 0.1):
        found += "d"
    return found


MARKS = {
    "f": "fio used more than 85 % of a core for each job: the figure is fio's limit, not the server's",
    "m": "fio and the server together used more than 90 % of all cores: they slow each other down",
    "o": "others (other processes, the kernel's write-back) used more than 10 % of all cores",
    "d": "more than 10 % of the server's CPU time was spent after the last answer (deferred work)",
}


def median_of(runs, *path):
    values = []
    for run in runs:
        for key in path:
            run = run[key]
        if run is not None:
            values.append(run)
    return statistics.median(values) if values else None


def summarize(runs):
    """Medians over the rounds of one load on one server; a mark stays when half of the rounds have it."""
    return {
        "load": runs[0]["load"],
        "server": runs[0]["server"],
        "rounds": len(runs),
        "iops": median_of(runs, "iops"),
        "iops_min": min(run["iops"] for run in runs),
        "iops_max": max(run["iops"] for run in runs),
        "bytes_per_second": median_of(runs, "bytes_per_second"),
        "latency_us": {
            "p50": median_of(runs, "latency_us", "p50"),
            "p99": median_of(runs, "latency_us", "p99"),
        },
        "server_cpu_s": median_of(runs, "server_cpu_s"),
        "server_cores": median_of(runs, "server_cores"),
        "fio_cores": median_of(runs, "fio_cores"),
        "operations_per_cpu_s": median_of(runs, "operations_per_cpu_s"),
        "max_rss_bytes": max(run["max_rss_bytes"] for run in runs),
        "marks": "".join(mark for mark in MARKS if 2 * sum(mark in run["marks"] for run in runs) >= len(runs)),
    }


def rotated(items, start):
    start %= len(items)
    return items[start:] + items[:start]


def run_load(load, servers, settings, cores, report_progress):
    """All rounds of one load: each round visits every server once, starting one further each time, so that a drift of
    the machine or a neighbour's burst falls on all. Returns the runs; a server whose run fails is left out."""
    runs, taking_part = [], list(servers)
    for round_index in range(settings["rounds"]):
        for server in rotated(list(servers), round_index):
            if server not in taking_part:
                continue
            report_progress(load, round_index, server)
            try:
                runs.append(run_once(load, server, settings, round_index, cores))
            except fio.FioFailed as error:
                taking_part.remove(server)
                report_progress(load, round_index, server, str(error))
    return runs


def ratio(numerator, denominator):
    return round(numerator / denominator, 3) if numerator is not None and denominator else None


def ratios(summaries, servers):
    """Each of our servers against each peer of the same durability, per load. Above 1 is better for throughput and
    operations per CPU second, below 1 is better for latency."""
    by_key = {(summary["load"], summary["server"]): summary for summary in summaries}
    loads = list(dict.fromkeys(summary["load"] for summary in summaries))
    result = []
    for load in loads:
        for ours in (server for server in servers if server.ours and not server.baseline):
            for peer in servers:
                comparable = peer.name == ours.name + BASELINE_SUFFIX if peer.ours else True
                if peer.durability != ours.durability or not comparable:
                    continue
                left, right = by_key.get((load, ours.name)), by_key.get((load, peer.name))
                if left is None or right is None:
                    continue
                result.append(
                    {
                        "load": load,
                        "server": ours.name,
                        "peer": peer.name,
                        "iops": ratio(left["iops"], right["iops"]),
                        "operations_per_cpu_s": ratio(left["operations_per_cpu_s"], right["operations_per_cpu_s"]),
                        "latency_p50": ratio(left["latency_us"]["p50"], right["latency_us"]["p50"]),
                        "latency_p99": ratio(left["latency_us"]["p99"], right["latency_us"]["p99"]),
                        "marks": "".join(mark for mark in MARKS if mark in left["marks"] + right["marks"]),
                    }
                )
    return result
