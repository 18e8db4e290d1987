"""Facts about the machine and about processes, read from /proc."""

import os
import platform
import statistics
import time

CLOCK_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
FSYNC_PROBE_WRITES = 200
FSYNC_PROBE_BYTES = 4096


def cpu_model():
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as cpuinfo:
        for line in cpuinfo:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.machine()


def memory_bytes():
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def facts(directory):
    stat = os.statvfs(directory)
    return {
        "cores": len(os.sched_getaffinity(0)),
        "cpu_model": cpu_model(),
        "kernel": platform.release(),
        "memory_bytes": memory_bytes(),
        "free_disk_bytes": stat.f_bavail * stat.f_frsize,
        "load_average_at_start": os.getloadavg()[0],
    }


def percentile(values, percent):
    """Nearest-rank percentile of a non-empty sequence."""
    ordered = sorted(values)
    rank = max(1, -(-len(ordered) * percent // 100))
    return ordered[int(rank) - 1]


def fsync_latency_us(directory):
    """Latency of overwriting 4 KiB in an allocated file and fdatasync, which is the floor of every durable write."""
    path = os.path.join(directory, "fsync-probe")
    block = os.urandom(FSYNC_PROBE_BYTES)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.pwrite(descriptor, block * 64, 0)
        os.fsync(descriptor)
        samples_us = []
        for index in range(FSYNC_PROBE_WRITES):
            start = time.perf_counter()
            os.pwrite(descriptor, block, (index % 64) * FSYNC_PROBE_BYTES)
            os.fdatasync(descriptor)
            samples_us.append((time.perf_counter() - start) * 1e6)
    finally:
        os.close(descriptor)
        os.unlink(path)
    return {
        "writes": FSYNC_PROBE_WRITES,
        "mean": round(statistics.fmean(samples_us), 1),
        "p50": round(percentile(samples_us, 50), 1),
        "p99": round(percentile(samples_us, 99), 1),
    }


def busy_seconds():
    """CPU seconds of the whole machine that were not idle, since boot."""
    with open("/proc/stat", encoding="ascii") as stat:
        fields = [int(field) for field in stat.readline().split()[1:9]]
    idle = fields[3] + fields[4]
    return (sum(fields) - idle) / CLOCK_TICKS_PER_SECOND


def parse_stat(text):
    """(parent pid, CPU ticks of the process and of its reaped children) from /proc/PID/stat."""
    fields = text[text.rindex(")") + 2 :].split()
    return int(fields[1]), sum(int(fields[index]) for index in (11, 12, 13, 14))


def read_stat(pid):
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stat:
        return parse_stat(stat.read())


def descendants(root_pid):
    """The process and all that live below it (nbd-server forks one process for each connection)."""
    children = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                children.setdefault(read_stat(name)[0], []).append(int(name))
            except (FileNotFoundError, ProcessLookupError):
                continue
    found, queue = [], [root_pid]
    while queue:
        pid = queue.pop()
        found.append(pid)
        queue.extend(children.get(pid, []))
    return found


def cpu_seconds(root_pid):
    """User and system time of the process, its live descendants and their reaped children."""
    ticks = 0
    for pid in descendants(root_pid):
        try:
            ticks += read_stat(pid)[1]
        except (FileNotFoundError, ProcessLookupError):
            continue
    return ticks / CLOCK_TICKS_PER_SECOND


def resident_bytes(root_pid):
    """Private resident memory (anonymous pages) of the process and its descendants.

    Pages of mapped files are the kernel's cache and are left out, so that servers with and without mmap compare."""
    total_kib = 0
    for pid in descendants(root_pid):
        try:
            with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as status:
                for line in status:
                    if line.startswith(("RssAnon:", "RssShmem:")):
                        total_kib += int(line.split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
    return total_kib * 1024
