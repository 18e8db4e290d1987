"""The loads, and one run of fio over the nbd engine."""

import json
import subprocess
from dataclasses import dataclass

FIO_TIMEOUT_EXTRA_S = 120
COMPRESS_CHUNK_BYTES = 512


@dataclass(frozen=True)
class Load:
    name: str
    title: str
    rw: str
    block_bytes: int
    depth: int
    jobs: int = 1
    flush_each: bool = False
    read_percent: int = 0

    @property
    def writes(self):
        return "write" in self.rw or self.rw == "randrw"


LOADS = [
    Load("seq-write", "1M sequential write, QD8", "write", 1 << 20, 8),
    Load("seq-read", "1M sequential read, QD8", "read", 1 << 20, 8),
    Load("rand-write", "4K random write, QD32", "randwrite", 4096, 32),
    Load("rand-read", "4K random read, QD32", "randread", 4096, 32),
    Load("rand-read-4j", "4K random read, 4 jobs x QD32", "randread", 4096, 32, jobs=4),
    Load("qd1-write", "4K random write, QD1", "randwrite", 4096, 1),
    Load("qd1-read", "4K random read, QD1", "randread", 4096, 1),
    Load("qd1-flush", "4K random write + flush, QD1", "randwrite", 4096, 1, flush_each=True),
    Load("mixed", "4K random 70/30 read/write, QD32", "randrw", 4096, 32, read_percent=70),
]


class FioFailed(Exception):
    pass


def data_options(compress_percent):
    """Data that differs in every request; small chunks, so that each block compresses alike and none is all zeroes."""
    options = ["--refill_buffers"]
    if compress_percent:
        options += [
            f"--buffer_compress_percentage={compress_percent}",
            f"--buffer_compress_chunk={COMPRESS_CHUNK_BYTES}",
        ]
    return options


def common_options(uri, range_bytes):
    return ["fio", "--ioengine=nbd", f"--uri={uri}", f"--size={range_bytes}", "--output-format=json"]


def fill_command(uri, range_bytes, compress_percent):
    return common_options(uri, range_bytes) + [
        "--name=fill",
        "--rw=write",
        "--bs=1M",
        "--iodepth=8",
        *data_options(compress_percent),
    ]


def load_command(load, uri, range_bytes, seconds, seed, compress_percent):
    command = common_options(uri, range_bytes) + [
        f"--name={load.name}",
        f"--rw={load.rw}",
        f"--bs={load.block_bytes}",
        f"--iodepth={load.depth}",
        f"--numjobs={load.jobs}",
        "--group_reporting",
        "--time_based",
        f"--runtime={seconds}",
        "--norandommap",
        "--allrandrepeat=0",
        f"--randseed={seed}",
    ]
    if load.writes:
        command += data_options(compress_percent)
    if load.flush_each:
        command.append("--fsync=1")
    if load.rw == "randrw":
        command += [f"--rwmixread={load.read_percent}", "--unified_rw_reporting=both"]
    return command


def run_fio(command, seconds):
    try:
        result = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=seconds + FIO_TIMEOUT_EXTRA_S
        )
    except subprocess.TimeoutExpired as error:
        raise FioFailed(f"fio did not end within {error.timeout} s") from error
    if result.returncode != 0:
        raise FioFailed(f"fio: {(result.stderr + result.stdout).strip()[-300:]}")
    return parse_output(result.stdout)


def parse_output(text):
    """fio prints lines of the engine before the JSON."""
    report = json.loads(text[text.index("{") :])
    job = report["jobs"][0]
    if job["error"]:
        raise FioFailed(f"fio: a job ended with error {job['error']}")
    return job


def latency_us(percentiles, percent):
    return round(percentiles[f"{percent:f}"] / 1000, 1)


def figures(load, job):
    """What the table and the JSON need from one fio job group."""
    if load.rw == "randrw":
        section = job["mixed"]
    else:
        section = job["write" if load.writes else "read"]
    clat = section["clat_ns"]["percentile"]
    result = {
        "operations": section["total_ios"],
        "iops": round(section["iops"], 1),
        "bytes_per_second": section["bw_bytes"],
        "seconds": section["runtime"] / 1000,
        "latency_us": {"p50": latency_us(clat, 50), "p99": latency_us(clat, 99)},
        "fio_cores": round((job["usr_cpu"] + job["sys_cpu"]) / 100 * load.jobs, 3),
    }
    if load.rw == "randrw":
        for direction in ("read", "write"):
            percentiles = job[direction]["clat_ns"]["percentile"]
            result[f"{direction}_latency_us"] = {
                "p50": latency_us(percentiles, 50),
                "p99": latency_us(percentiles, 99),
            }
    if load.flush_each:
        flush = job["sync"]["lat_ns"]["percentile"]
        result["flushes"] = job["sync"]["total_ios"]
        result["write_latency_us"] = result["latency_us"]
        result["latency_us"] = {"p50": latency_us(flush, 50), "p99": latency_us(flush, 99)}
    return result
