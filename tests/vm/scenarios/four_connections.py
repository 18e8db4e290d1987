"""The same over four connections: the kernel spreads requests over them and a flush on one covers all."""

from scenarios.copy_kill_fsck import copy_and_check
from vmlib.common import Failure

CONNECTION_COUNT = 4


def run(ctx):
    def check_connections(server):
        queues = ctx.vm.sh(f"ls /sys/block/nbd{ctx.index}/mq | wc -l").output.strip()
        if queues != str(CONNECTION_COUNT):
            raise Failure(f"the kernel has {queues} queues for {CONNECTION_COUNT} connections")
        ctx.wait_until(f"{CONNECTION_COUNT} open connections", lambda: server.established_count() == CONNECTION_COUNT, 20)

    copy_and_check(ctx, f"-C {CONNECTION_COUNT}", check_connections)
