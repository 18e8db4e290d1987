"""SIGKILL of the server under a mounted file system in use: it waits for the next server, and nothing is lost."""

import time

from vmlib.common import Failure
from vmlib.writers import Writers

ROUNDS = 3
OUTAGE_S = 3
DEAD_TIMEOUT_S = 300


def restart_under_load(ctx, connection_count, stop_server):
    """ROUNDS times: stop_server(server) under load, outage, restart, fresh sockets for the device; then checks all."""
    server = ctx.server("1G")
    ctx.attach_netlink(server, connection_count, DEAD_TIMEOUT_S)
    ctx.mkfs()
    ctx.mount()
    writers = Writers(ctx.vm, ctx.mount_point)
    writers.start()
    before = 0
    for _ in range(ROUNDS):
        ctx.wait_until("records to be fsynced", lambda: writers.acknowledged() > before + 5)
        stopped = time.monotonic()
        stop_server(server)
        in_outage = writers.acknowledged()
        time.sleep(OUTAGE_S)
        writers.check_alive()
        # One record may have been answered just before the end of the server.
        if writers.acknowledged() > in_outage + 1:
            raise Failure("fsync succeeds although there is no server")
        before = writers.acknowledged()
        server.start()
        ctx.reconfigure(server, connection_count)
        ctx.wait_until("the fsync in flight to complete", lambda: writers.acknowledged() > before)
        ctx.note(f"stall {time.monotonic() - stopped:.1f} s")
        writers.check_alive()
    count = writers.stop()
    ctx.note(f"{count} records fsynced")
    ctx.unmount()
    ctx.check_kernel_log()
    ctx.detach()
    server.kill()
    server.start()
    ctx.attach(server)
    ctx.fsck()
    ctx.mount("-o ro")
    writers.verify(count)
    ctx.unmount()
    ctx.detach()


def run(ctx):
    restart_under_load(ctx, 1, lambda server: server.kill())
