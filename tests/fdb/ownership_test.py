#!/usr/bin/python3
"""Three servers fight for one volume, and every reply they give is consistent with one order.

Clients write and read at every server all the time, while servers are stopped, restarted with --takeover or --force, paused for longer than the lease, killed,
cut off from the cluster, and locks are broken. The history is checked as that of registers (registers.py).

FDB_NBD_OWNERSHIP_ROUNDS sets the number of rounds (20 where it is not set), FDB_NBD_SEED what happens in them. A failure keeps the history;
`ownership_test.py --check FILE` looks at it again. Partitions need root and `ip`; without them they are left out, with a word.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "integration"))
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
sys.dont_write_bytecode = True

import fdb_cluster   # noqa: E402
import registers   # noqa: E402
import lib   # noqa: E402
from lib import *   # noqa: F403,E402
from lib import Failure, Server, Skip, main, test   # noqa: E402
from registers import READ, WRITE, Op   # noqa: E402
from stamping_clients import BLOCK, BLOCKS, VOLUME_BYTES, Client, History, value_of   # noqa: E402

ROUNDS = int(os.environ.get("FDB_NBD_OWNERSHIP_ROUNDS") or 20)
SERVERS, CONNECTIONS = 3, 2
LEASE_S = 1
# Until somebody acknowledges a write again; a recovery of the client's connections may take some of it.
PROGRESS_TIMEOUT_S = 60


class Network:
    """Namespaces: one for the cluster, one for each server, each joined to the cluster's by a link that can be cut."""

    ADDRESS = "10.99.0.1"

    def __init__(self):
        self.name = f"fdbnbd{os.getpid()}"
        self.names = [self.name] + [f"{self.name}-{n}" for n in range(SERVERS)]

    def __enter__(self):
        try:
            self.make()
        except BaseException:
            self.__exit__()
            raise
        return self

    def make(self):
        for name in self.names:
            self.ip("netns", "add", name)
            self.ip("-n", name, "link", "set", "lo", "up")
        self.ip("-n", self.name, "link", "add", "bridge", "type", "bridge")
        self.ip("-n", self.name, "addr", "add", f"{self.ADDRESS}/24", "dev", "bridge")
        self.ip("-n", self.name, "link", "set", "bridge", "up")
        for n in range(SERVERS):
            self.ip("-n", self.name, "link", "add", f"link{n}", "type", "veth", "peer", "name", "eth0", "netns", self.names[1 + n])
            self.ip("-n", self.name, "link", "set", f"link{n}", "up")
            self.ip("-n", self.names[1 + n], "addr", "add", f"10.99.0.{10 + n}/24", "dev", "eth0")
            self.ip("-n", self.names[1 + n], "link", "set", "eth0", "up")
            self.join(n)

    def __exit__(self, *_):
        for name in self.names:
            subprocess.run(["ip", "netns", "del", name], stderr=subprocess.DEVNULL, check=False)

    @staticmethod
    def ip(*args):
        subprocess.run(["ip", *args], check=True)

    def cut(self, number):
        self.ip("-n", self.name, "link", "set", f"link{number}", "nomaster")

    def join(self, number):
        self.ip("-n", self.name, "link", "set", f"link{number}", "master", "bridge")

    def launcher(self, number=None):
        """What runs a program beside the cluster, or where server `number` is."""
        return ["ip", "netns", "exec", self.name if number is None else self.names[1 + number]]


class NoNetwork:
    """Everything on the loopback; nothing can be cut."""

    ADDRESS = "127.0.0.1"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    @staticmethod
    def launcher(_=None):
        return []


def make_network():
    if os.geteuid() != 0:
        print("no partitions: they need root")
        return NoNetwork()
    probe = f"fdbnbd{os.getpid()}-probe"
    if not shutil.which("ip") or subprocess.run(["ip", "netns", "add", probe], stderr=subprocess.DEVNULL, check=False).returncode != 0:
        print("no partitions: `ip netns add` does not work here")
        return NoNetwork()
    subprocess.run(["ip", "netns", "del", probe], check=False)
    return Network()


class Contender(Server):
    """One of the servers. Its process may be paused, and none of its clients may wait for that."""

    def __init__(self, number, network, **options):
        self.number, self.launcher = number, network.launcher(number)
        super().__init__(tcp=False, **options)

    def command(self):
        return [*self.launcher, *super().command(), "--lease", str(LEASE_S)]

    def restart(self, *args):
        self.stop(within=60)
        self.args = list(args)
        self.start()
        self.args = []


class Fight:
    """The servers, their clients, and what is done to them."""

    def __init__(self, network, cluster, chance):
        self.network, self.cluster, self.chance = network, cluster, chance
        self.history = History()
        self.store = f"fdb:{cluster.cluster_file}?prefix=ownership"
        self.servers, self.clients = [], []
        self.stale_reads = []   # (from, to, server that took the volume by force or None): others may answer reads from their past
        self.events = []        # what happened, as text
        self.owners = []        # who acknowledged writes at the end of each round

    def __enter__(self):
        for number in range(SERVERS):
            self.servers.append(Contender(number, self.network, volumes={"disk": VOLUME_BYTES}, store=self.store))
        for server in self.servers:
            self.clients += [Client(server, server.number, self.history, self.chance.random(), patience_s=20) for _ in range(CONNECTIONS)]
        for client in self.clients:
            client.start()
        self.wait_for_progress("the start")
        return self

    def __exit__(self, kind, error, _):
        if error is not None:
            error.add_note(f"the last events: {', '.join(self.events[-5:])}")
            for server in self.servers:
                error.add_note(f"the end of the log of server {server.number}:\n{server.log_tail(30)}")
        for client in self.clients:
            client.stopping.set()
        for server in self.servers:
            server.kill()
        for client in self.clients:
            client.join()
        for server in self.servers:
            server.remove()

    def owner(self):
        return self.servers[self.history.last_acknowledged[1]]

    def another(self):
        return self.chance.choice([server for server in self.servers if server is not self.owner()])

    def wait_for_progress(self, what):
        since = time.monotonic()
        while self.history.last_acknowledged[0] <= since:
            if self.history.wrong:
                raise self.history.wrong
            if time.monotonic() - since > PROGRESS_TIMEOUT_S:
                raise Failure(f"after {what}", f"an acknowledged write within {PROGRESS_TIMEOUT_S} s", "none")
            time.sleep(0.02)
        self.owners.append(self.history.last_acknowledged[1])

    def tool(self, *args):
        return tool(*self.network.launcher(), PROGRAM, "--store", self.store, *args)

    # What may happen in a round.

    def clients_leave(self):
        clients = [client for client in self.clients if client.server is self.owner()]
        for client in clients:
            client.away.set()
        time.sleep(self.chance.uniform(0.2, 1) * LEASE_S)
        for client in clients:
            client.away.clear()

    def handover(self):
        self.another().restart("--takeover")

    def force(self):
        server = self.another()
        began = time.monotonic()
        server.restart("--force")
        self.stale_reads.append((began, time.monotonic() + LEASE_S, server.number))

    def break_lock(self):
        began = time.monotonic()
        self.tool("lock", "break", "disk")
        self.stale_reads.append((began, time.monotonic() + LEASE_S, None))

    def pause(self):
        server = self.owner() if self.chance.random() < 0.8 else self.another()
        server.process.send_signal(signal.SIGSTOP)
        try:
            time.sleep(self.chance.uniform(0.8, 2.5) * LEASE_S)
        finally:
            server.process.send_signal(signal.SIGCONT)

    def partition(self):
        server = self.owner() if self.chance.random() < 0.8 else self.another()
        self.network.cut(server.number)
        try:
            time.sleep(self.chance.uniform(0.8, 3) * LEASE_S)
        finally:
            self.network.join(server.number)

    def kill(self):
        server = self.owner()
        server.kill()
        server.start()

    def stop(self):
        self.owner().restart()

    def pause_and_take(self):
        """The old owner wakes up when the new one has the volume for sure."""
        server = self.owner()
        server.process.send_signal(signal.SIGSTOP)
        try:
            self.break_lock()
            time.sleep(self.chance.uniform(0.1, 1) * LEASE_S)
        finally:
            server.process.send_signal(signal.SIGCONT)

    def read_everything(self):
        """What the volume holds in the end joins the history."""
        for client in self.clients:
            client.stopping.set()
        for client in self.clients:
            client.join()
        for server in self.servers:
            server.stop(within=60)
        self.tool("check")
        server = self.servers[0]
        server.start()
        with server.session("disk") as wire:
            for block in range(BLOCKS):
                op = self.history.begin(READ, block, None, server.number)
                op.value = value_of(block, wire.read(block * BLOCK, BLOCK))
                self.history.end(op, True)
        server.stop(within=60)

    def usable(self):
        """The history without the reads that a server may answer from its past after it lost the volume by force."""
        def may_be_stale(op):
            return op.kind == READ and any(since <= op.begin <= until and op.server != taker for since, until, taker in self.stale_reads)
        return [op for op in list(self.history.ops) if not may_be_stale(op)]


@test(limit=120 + 15 * ROUNDS)
def every_reply_of_servers_that_fight_for_a_volume_fits_one_order():
    if fdb_cluster.missing():
        raise Skip(fdb_cluster.missing())
    chance = random.Random(random_seed())
    with make_network() as network, fdb_cluster.Cluster("memory", host=network.ADDRESS, launcher=network.launcher()) as cluster:
        with Fight(network, cluster, chance) as fight:
            events = [fight.clients_leave, fight.handover, fight.force, fight.break_lock, fight.pause, fight.pause, fight.pause_and_take, fight.kill, fight.stop]
            if isinstance(network, Network):
                events += [fight.partition, fight.partition]
            for number in range(ROUNDS):
                event = chance.choice(events)
                fight.events.append(f"{number} {event.__name__} (owner {fight.owner().number})")
                event()
                fight.wait_for_progress(f"round {number}, {event.__name__}")
                time.sleep(chance.uniform(0, 0.5))
            fight.read_everything()
        if fight.history.wrong:
            raise fight.history.wrong
        ops = fight.usable()
        writes = sum(op.kind == WRITE and op.is_ok for op in ops)
        moves = sum(one != other for one, other in zip(fight.owners, fight.owners[1:]))
        print(f"{ROUNDS} rounds, {moves} changes of the owner, {writes} writes acknowledged, {sum(op.kind == READ and op.is_ok for op in ops)} reads")
        expect("acknowledged writes", writes > 20 * ROUNDS, f"more than {20 * ROUNDS}", writes)
        expect("changes of the owner", moves >= ROUNDS // 4, "many", moves)
        expect_right(ops)


def expect_right(ops):
    violation = registers.find_violation(ops)
    if violation:
        path = os.path.join(tempfile.gettempdir(), f"fdb-nbd-ownership-{used_seed_text()}.jsonl")
        registers.save(path, ops)
        raise Failure(f"the history (kept; look again: {os.path.relpath(sys.argv[0])} --check {path})", "one order for every block", violation)


def used_seed_text():
    return str(lib.used_seed)


# -- the checker itself ---------------------------------------------------------------------------


def history(*ops):
    """From (kind, value, server, begin, end): an end below zero is an error at that time, None no reply."""
    out = []
    for kind, value, server, begin, end in ops:
        op = Op(kind, 0, value, server, begin)
        op.end, op.is_ok = (registers.FOREVER, False) if end is None else (abs(end), end > 0)
        out.append(op)
    return out


@test
def checker_takes_what_a_disk_can_do():
    for what in (
            [(READ, 0, 0, 1, 2), (WRITE, 1, 0, 3, 4), (READ, 1, 0, 5, 6)],
            [(WRITE, 1, 0, 1, 10), (READ, 0, 0, 2, 3), (READ, 1, 0, 4, 5)],
            [(WRITE, 1, 0, 1, 4), (WRITE, 2, 0, 2, 5), (READ, 1, 0, 6, 7)],
            [(WRITE, 1, 0, 1, None), (READ, 0, 0, 2, 3), (READ, 1, 0, 4, 5)],
            [(WRITE, 1, 0, 1, -2), (READ, 0, 0, 3, 4)],
            [(WRITE, 1, 0, 1, None), (WRITE, 2, 1, 2, 3), (READ, 2, 1, 4, 5)]):
        expect_equal(f"violation in {what}", registers.find_violation(history(*what)), None)


@test
def checker_finds_lost_stale_and_reordered_writes():
    for what in (
            [(WRITE, 1, 0, 1, 2), (READ, 0, 0, 3, 4)],                                                      # lost
            [(WRITE, 1, 0, 1, 2), (WRITE, 2, 0, 3, 4), (READ, 1, 0, 5, 6)],                                  # lost under an older one
            [(WRITE, 1, 0, 1, None), (WRITE, 2, 1, 2, 3), (READ, 2, 1, 4, 5), (READ, 1, 1, 6, 7)],           # took effect after the takeover
            [(WRITE, 1, 0, 1, -2), (READ, 0, 0, 3, 4), (READ, 1, 0, 5, 6)],                                  # took effect after its error
            [(WRITE, 1, 0, 1, 2), (WRITE, 2, 1, 3, 4), (READ, 2, 1, 5, 6), (READ, 1, 0, 7, 8)],              # a stale read
            [(WRITE, 1, 0, 1, 9), (WRITE, 2, 0, 2, 9), (READ, 1, 0, 3, 4), (READ, 2, 0, 5, 6), (READ, 1, 0, 7, 8)],
            [(READ, 1, 0, 1, 2), (WRITE, 1, 0, 3, 4)],                                                      # before it was written
            [(READ, 7, 0, 1, 2)]):
        expect(f"checking {what}", registers.find_violation(history(*what)) is not None, "a violation", "none")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--check"]:
        sys.exit(registers.find_violation(registers.load(sys.argv[2])))
    main()
