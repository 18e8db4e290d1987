"""A mounted file system in use for FDB_NBD_VM_SECONDS, whatever befalls the store meanwhile: no I/O error, and nothing is lost."""

import os
import time

from vmlib.writers import Writers

SECONDS = int(os.environ.get("FDB_NBD_VM_SECONDS") or 20)
CHECK_EVERY_S = 5


def run(ctx):
    server = ctx.server("1G")
    ctx.attach(server)
    ctx.mkfs()
    ctx.mount()
    writers = Writers(ctx.vm, ctx.mount_point)
    writers.start()
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        time.sleep(CHECK_EVERY_S)
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
