#!/usr/bin/python3
"""Tests of the benchmark's own arithmetic: what it reads from fio and /proc, medians, ratios, marks, tables."""

import contextlib
import importlib.machinery
import importlib.util
import io
import json
import os
import sys
import unittest

HERE = os.path.dirname(os.path.realpath(__file__))
sys.path.insert(0, HERE)
sys.dont_write_bytecode = True

from nbdbench import loads, machine, measure, report, servers  # noqa: E402


def load_run_program():
    loader = importlib.machinery.SourceFileLoader("bench_run", os.path.join(HERE, "run"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("bench_run", loader))
    loader.exec_module(module)
    return module


def load_named(name):
    return next(load for load in loads.LOADS if load.name == name)


def section(iops, p50_ns, p99_ns, operations=1000):
    return {
        "total_ios": operations,
        "iops": iops,
        "bw_bytes": iops * 4096,
        "runtime": 2000,
        "clat_ns": {"percentile": {"50.000000": p50_ns, "99.000000": p99_ns}},
    }


def job(**sections):
    return {"error": 0, "usr_cpu": 20.0, "sys_cpu": 30.0, **sections}


def run(server, iops, load="rand-read", marks="", **changes):
    result = {
        "load": load,
        "server": server,
        "iops": iops,
        "bytes_per_second": iops * 4096,
        "latency_us": {"p50": 10.0, "p99": 20.0},
        "server_cpu_s": 1.0,
        "server_cores": 0.5,
        "fio_cores": 0.5,
        "operations_per_cpu_s": iops,
        "max_rss_bytes": 1 << 20,
        "marks": marks,
    }
    result.update(changes)
    return result


class FioOutput(unittest.TestCase):
    def test_lines_before_the_json_are_skipped(self):
        text = "fio: connected to NBD server\n" + json.dumps({"jobs": [job(read=section(5, 1000, 2000))]})
        self.assertEqual(loads.parse_output(text)["read"]["iops"], 5)

    def test_a_job_error_is_a_failure(self):
        failed = job(read=section(5, 1000, 2000))
        failed["error"] = 5
        with self.assertRaises(loads.FioFailed):
            loads.parse_output(json.dumps({"jobs": [failed]}))

    def test_figures_come_from_the_direction_of_the_load(self):
        both = job(read=section(5, 1000, 2000), write=section(7, 3000, 4000))
        self.assertEqual(loads.figures(load_named("rand-read"), both)["latency_us"], {"p50": 1.0, "p99": 2.0})
        self.assertEqual(loads.figures(load_named("rand-write"), both)["latency_us"], {"p50": 3.0, "p99": 4.0})

    def test_the_mixed_load_keeps_both_directions(self):
        mixed = job(
            read=section(5, 1000, 2000), write=section(7, 3000, 4000), mixed=section(12, 2000, 4000)
        )
        result = loads.figures(load_named("mixed"), mixed)
        self.assertEqual(result["iops"], 12)
        self.assertEqual(result["write_latency_us"]["p99"], 4.0)

    def test_a_flush_load_reports_the_latency_of_the_flush(self):
        flushed = job(write=section(7, 3000, 4000))
        flushed["sync"] = {"total_ios": 9, "lat_ns": {"percentile": {"50.000000": 50000, "99.000000": 90000}}}
        result = loads.figures(load_named("qd1-flush"), flushed)
        self.assertEqual(result["latency_us"], {"p50": 50.0, "p99": 90.0})
        self.assertEqual(result["write_latency_us"]["p50"], 3.0)
        self.assertEqual(result["flushes"], 9)

    def test_processor_use_of_grouped_jobs_is_their_sum(self):
        read = job(read=section(5, 1000, 2000))
        self.assertEqual(loads.figures(load_named("rand-read"), read)["fio_cores"], 0.5)
        self.assertEqual(loads.figures(load_named("rand-read-4j"), read)["fio_cores"], 2.0)


class FioCommand(unittest.TestCase):
    def command(self, name, compress_percent=50):
        return loads.load_command(load_named(name), "nbd+unix:///x", 1 << 20, 3, 1, compress_percent)

    def test_only_writes_carry_data_options(self):
        self.assertIn("--refill_buffers", self.command("rand-write"))
        self.assertNotIn("--refill_buffers", self.command("rand-read"))

    def test_no_compression_is_left_out(self):
        self.assertIn("--buffer_compress_percentage=30", self.command("mixed", 30))
        self.assertFalse([word for word in self.command("mixed", 0) if "compress" in word])

    def test_only_the_flush_load_flushes(self):
        flushing = [load.name for load in loads.LOADS if "--fsync=1" in self.command(load.name)]
        self.assertEqual(flushing, ["qd1-flush"])


class Processes(unittest.TestCase):
    def test_a_name_with_spaces_and_brackets_is_read(self):
        text = "12 (a b) c) S 7 " + " ".join(str(field) for field in range(5, 60))
        self.assertEqual(machine.parse_stat(text), (7, 14 + 15 + 16 + 17))

    def test_own_processor_time_grows_with_work(self):
        before = machine.cpu_seconds(os.getpid())
        while machine.cpu_seconds(os.getpid()) == before:
            pass
        self.assertGreater(machine.resident_bytes(os.getpid()), 1 << 20)

    def test_percentile_is_the_nearest_rank(self):
        self.assertEqual(machine.percentile(range(1, 101), 99), 99)
        self.assertEqual(machine.percentile([3, 1, 2], 50), 2)


class Summary(unittest.TestCase):
    def test_median_minimum_and_maximum_of_the_rounds(self):
        summary = measure.summarize([run("a", 10), run("a", 30), run("a", 11)])
        self.assertEqual((summary["iops"], summary["iops_min"], summary["iops_max"]), (11, 10, 30))

    def test_a_mark_stays_when_half_of_the_rounds_have_it(self):
        self.assertEqual(measure.summarize([run("a", 1, marks="f"), run("a", 1)])["marks"], "f")
        self.assertEqual(measure.summarize([run("a", 1, marks="f"), run("a", 1), run("a", 1)])["marks"], "")

    def test_a_round_too_short_for_processor_time_is_left_out_of_its_median(self):
        summary = measure.summarize([run("a", 1, operations_per_cpu_s=None), run("a", 9)])
        self.assertEqual(summary["operations_per_cpu_s"], 9)

    def test_each_round_starts_one_server_further(self):
        self.assertEqual(measure.rotated([1, 2, 3], 0), [1, 2, 3])
        self.assertEqual(measure.rotated([1, 2, 3], 4), [2, 3, 1])


class Marks(unittest.TestCase):
    def marks(self, jobs=1, cores=4, **changes):
        quiet = {
            "fio_cores": 0.5,
            "server_cores": 0.5,
            "machine_busy_share": 0.25,
            "server_cpu_after_s": 0.0,
            "server_cpu_s": 1.0,
        }
        return measure.marks({**quiet, **changes}, jobs, cores)

    def test_a_quiet_run_has_none(self):
        self.assertEqual(self.marks(), "")

    def test_fio_at_its_limit(self):
        self.assertEqual(self.marks(fio_cores=0.9, machine_busy_share=0.35), "f")
        self.assertEqual(self.marks(fio_cores=0.9, machine_busy_share=0.35, jobs=4), "")

    def test_a_full_machine(self):
        self.assertEqual(self.marks(cores=1, machine_busy_share=1.0), "m")

    def test_others_at_work(self):
        self.assertEqual(self.marks(machine_busy_share=0.5), "o")

    def test_work_after_the_last_answer(self):
        self.assertEqual(self.marks(server_cpu_after_s=0.2), "d")


class Ratios(unittest.TestCase):
    def all_servers(self):
        found = servers.fdb_nbd_servers("/x") + servers.fdb_nbd_servers("/y", baseline=True)
        return found + servers.peers()

    def test_only_peers_of_the_same_durability_are_compared(self):
        everyone = self.all_servers()
        summaries = [measure.summarize([run(server.name, 10)]) for server in everyone]
        pairs = {(entry["server"], entry["peer"]) for entry in measure.ratios(summaries, everyone)}
        self.assertIn(("fdb-nbd-memory", "nbdkit-memory"), pairs)
        self.assertIn(("fdb-nbd-rocksdb", "nbd-server"), pairs)
        self.assertIn(("fdb-nbd-rocksdb", "fdb-nbd-rocksdb@baseline"), pairs)
        self.assertNotIn(("fdb-nbd-memory", "nbdkit-file"), pairs)
        self.assertNotIn(("nbdkit-memory", "qemu-null-co"), pairs)
        self.assertNotIn(("fdb-nbd-rocksdb", "fdb-nbd-rocksdb-lz4@baseline"), pairs)
        self.assertFalse([pair for pair in pairs if "@baseline" in pair[0]])

    def test_the_ratio_is_ours_over_theirs(self):
        everyone = [servers.fdb_nbd_servers("/x")[0], servers.peers()[0]]
        summaries = [measure.summarize([run("fdb-nbd-memory", 30)]), measure.summarize([run("nbdkit-memory", 20)])]
        (entry,) = measure.ratios(summaries, everyone)
        self.assertEqual(entry["iops"], 1.5)
        self.assertIn("1.50 / 1.50 / 1.00", report.ratio_tables([entry], ["rand-read"])[0])

    def test_a_server_that_failed_in_a_load_has_no_ratio_there(self):
        everyone = [servers.fdb_nbd_servers("/x")[0], servers.peers()[0]]
        self.assertEqual(measure.ratios([measure.summarize([run("fdb-nbd-memory", 30)])], everyone), [])


class Program(unittest.TestCase):
    def test_unknown_names_are_an_error_that_lists_the_known(self):
        program = load_run_program()
        _, parser = program.parse_arguments([])
        message = io.StringIO()
        with self.assertRaises(SystemExit), contextlib.redirect_stderr(message):
            program.select(parser, "load", loads.LOADS, "seq-write,nothing")
        self.assertIn("no load named nothing; there are: seq-write, seq-read", message.getvalue())

    def test_a_star_selects_by_prefix(self):
        program = load_run_program()
        _, parser = program.parse_arguments([])
        chosen = program.select(parser, "load", loads.LOADS, "qd1-*,mixed")
        self.assertEqual([load.name for load in chosen], ["qd1-write", "qd1-read", "qd1-flush", "mixed"])

    def test_a_missing_server_is_skipped_with_its_reason(self):
        absent = servers.fdb_nbd_servers("/nowhere/fdb-nbd")[0]
        with self.assertRaisesRegex(servers.Unavailable, "/nowhere/fdb-nbd is not built"):
            absent.start("/nowhere", 1 << 20)

    def test_a_range_beyond_the_export_is_refused(self):
        program = load_run_program()
        with self.assertRaises(SystemExit), contextlib.redirect_stderr(io.StringIO()):
            program.parse_arguments(["--range-mib=4096", "--size-mib=1024"])


if __name__ == "__main__":
    unittest.main()
