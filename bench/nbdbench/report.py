"""The tables on standard output and the JSON document."""

from nbdbench.measure import MARKS

SCHEMA = 1
HIDDEN = "–"


def number(value, digits=0):
    return HIDDEN if value is None else f"{value:,.{digits}f}"


def format_table(header, rows):
    """Columns aligned: the first to the left, the others to the right."""
    widths = [max(len(str(row[column])) for row in [header, *rows]) for column in range(len(header))]
    lines = []
    for row in [header, ["-" * width for width in widths], *rows]:
        cells = [str(row[0]).ljust(widths[0])]
        cells += [str(cell).rjust(width) for cell, width in zip(row[1:], widths[1:])]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def load_table(load, summaries):
    header = [load.title, "IOPS", "±%", "MB/s", "p50 us", "p99 us", "CPU s", "ops/CPU s", "RSS MiB", "marks"]
    rows = []
    for summary in summaries:
        spread = 50 * (summary["iops_max"] - summary["iops_min"]) / summary["iops"] if summary["iops"] else None
        rows.append(
            [
                summary["server"],
                number(summary["iops"]),
                number(spread),
                number(summary["bytes_per_second"] / 1e6, 1),
                number(summary["latency_us"]["p50"], 1),
                number(summary["latency_us"]["p99"], 1),
                number(summary["server_cpu_s"], 2),
                number(summary["operations_per_cpu_s"]),
                number(summary["max_rss_bytes"] / (1 << 20)),
                summary["marks"],
            ]
        )
    return format_table(header, rows)


def ratio_tables(ratios, load_names):
    """One table for each of our servers: a row a load, a column a peer, cells throughput / ops per CPU s / p99."""
    tables = []
    for ours in dict.fromkeys(entry["server"] for entry in ratios):
        peers = list(dict.fromkeys(entry["peer"] for entry in ratios if entry["server"] == ours))
        cells = {(entry["load"], entry["peer"]): entry for entry in ratios if entry["server"] == ours}
        rows = []
        for load in load_names:
            row = [load]
            for peer in peers:
                entry = cells.get((load, peer))
                row.append(HIDDEN if entry is None else ratio_cell(entry))
            rows.append(row)
        tables.append(format_table([f"{ours} /", *peers], rows))
    return tables


def ratio_cell(entry):
    parts = [number(entry[key], 2) for key in ("iops", "operations_per_cpu_s", "latency_p99")]
    return " / ".join(parts) + (f" {entry['marks']}" if entry["marks"] else "")


def ratio_legend():
    lines = ["Each cell: throughput / operations per server CPU second / p99 latency. The first two: above 1 is better;"]
    lines.append("the third: below 1 is better. Peers of the same durability only. Marks, of either side:")
    lines += [f"  {mark}  {text}" for mark, text in MARKS.items()]
    return "\n".join(lines)


def document(started, machine_facts, settings, servers, skipped, runs, summaries, ratios):
    return {
        "schema": SCHEMA,
        "started": started,
        "machine": machine_facts,
        "settings": settings,
        "servers": [
            {
                "name": server.name,
                "durability": server.durability,
                "version": server.version(),
                "command": server.argv,
                "note": server.note,
            }
            for server in servers
        ],
        "skipped": [{"name": name, "reason": reason} for name, reason in skipped.items()],
        "runs": runs,
        "summary": summaries,
        "ratios": ratios,
    }
