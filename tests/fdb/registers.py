"""Whether a history of reads and writes of blocks is one that a disk can have, whoever served it.

A block is a register that holds one value at a time, and no value is written twice. A history is right when each operation can be given one moment between its
begin and its end so that every read returns the value written last before it. With values written once that is decided by zones (Gibbons and Korach,
"Testing Shared Memories", 1997): the operations on one value make a cluster, whose zone reaches from its first end to its last begin. A forward zone (first end
before last begin) is time in which the register must hold that value; no two of them may overlap, and none may enclose a cluster that is over within it.
"""

import bisect
import collections
import json

WRITE, READ = "write", "read"
INITIAL = 0   # the value of a block that nobody has written
FOREVER = float("inf")


class Op:
    """One operation on one block. `end` is FOREVER where no reply came; `is_ok` says that the reply was not an error."""

    __slots__ = ("kind", "block", "value", "server", "begin", "end", "is_ok")

    def __init__(self, kind, block, value, server, begin):
        self.kind, self.block, self.value, self.server, self.begin = kind, block, value, server, begin
        self.end, self.is_ok = FOREVER, False

    def __repr__(self):
        how = "no reply" if self.end == FOREVER else f"{self.end:.6f} {'ok' if self.is_ok else 'error'}"
        return f"{self.kind} of {self.value} on server {self.server} [{self.begin:.6f}, {how}]"


def save(path, ops):
    with open(path, "w") as file:
        for op in ops:
            end = None if op.end == FOREVER else op.end
            file.write(json.dumps([op.kind, op.block, op.value, op.server, op.begin, end, op.is_ok]) + "\n")


def load(path):
    ops = []
    with open(path) as file:
        for line in file:
            *what, end, is_ok = json.loads(line)
            ops.append(Op(*what))
            ops[-1].end, ops[-1].is_ok = FOREVER if end is None else end, is_ok
    return ops


def last_moments(ops):
    """{write that was not acknowledged: when at the latest it took effect, if ever}.

    With an error for a reply: before that. And in any case before another server's acknowledgement of a write that was begun later: a connection belongs to
    one tenure, which began before the connection did, so that tenure was over when the other server committed.
    """
    out = {}
    writes = [op for op in ops if op.kind == WRITE]
    for server in {op.server for op in writes}:
        others = sorted((op.begin, op.end) for op in writes if op.server != server and op.is_ok)
        begins = [begin for begin, _ in others]
        first_end = [FOREVER] * (len(others) + 1)   # of those from here on
        for index in range(len(others) - 1, -1, -1):
            first_end[index] = min(first_end[index + 1], others[index][1])
        for op in writes:
            if op.server == server and not op.is_ok:
                out[op] = min(op.end, first_end[bisect.bisect_right(begins, op.begin)])
    return out


def find_violation(ops):
    """What is wrong with the history, as text; None where it is right. Reads that failed say nothing."""
    moments = last_moments(ops)
    by_block = collections.defaultdict(list)
    for op in ops:
        if op.kind == WRITE or op.is_ok:
            by_block[op.block].append(op)
    for block, of_block in sorted(by_block.items()):
        wrong = find_violation_of_block(of_block, moments)
        if wrong:
            return f"block {block}: {wrong}"
    return None


def find_violation_of_block(ops, moments):
    writes = {op.value: op for op in ops if op.kind == WRITE}
    reads = collections.defaultdict(list)
    for op in ops:
        if op.kind == READ:
            reads[op.value].append(op)
    forward, backward = [], []
    for value in set(writes) | set(reads):
        write, readers = writes.get(value), reads[value]
        if value == INITIAL:
            begins, ends = [-FOREVER], [-FOREVER]
        elif write is None:
            return f"a value that nobody wrote: {readers[0]}"
        elif not write.is_ok and not readers:
            continue   # it need not have happened
        else:
            begins, ends = [write.begin], [moments.get(write, write.end)]
            for read in readers:
                if read.end < write.begin:
                    return f"{read} returned what was written later: {write}"
        first_end = min(ends + [read.end for read in readers])
        last_begin = max(begins + [read.begin for read in readers])
        ops_of_value = ([write] if write else []) + readers
        (forward if first_end < last_begin else backward).append((first_end, last_begin, ops_of_value))
    forward.sort(key=lambda zone: zone[0])
    for (_, until, one), (since, _, other) in zip(forward, forward[1:]):
        if since < until:
            return f"two values at one time: {describe(one)}; and {describe(other)}"
    starts = [zone[0] for zone in forward]
    for end, begin, inner in backward:
        index = bisect.bisect_left(starts, begin) - 1
        if index >= 0 and end < forward[index][1]:
            return f"a write that nobody sees although it was acknowledged: {describe(inner)}; what is seen before and after it: {describe(forward[index][2])}"
    return None


def describe(ops):
    """The write and the reads that bound its zone."""
    first, last = min(ops, key=lambda op: op.end), max(ops, key=lambda op: op.begin)
    write = [op for op in ops if op.kind == WRITE]
    return ", ".join(dict.fromkeys(map(repr, write + [first, last])))
