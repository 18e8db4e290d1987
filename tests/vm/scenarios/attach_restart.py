"""`fdb-nbd attach` under load: its supervisor outlives SIGKILL and SIGTERM of the server, and a resize of the mounted disk."""

import time

from vmlib.common import Failure
from vmlib.writers import Writers

OUTAGE_S = 2


def run(ctx):
    server = ctx.server("256M")
    ctx.attach_supervised(server)
    ctx.mkfs()
    ctx.mount()
    writers = Writers(ctx.vm, ctx.mount_point)
    writers.start()
    for stop in (server.kill, server.terminate):
        before = writers.acknowledged()
        ctx.wait_until("records to be fsynced", lambda: writers.acknowledged() > before + 3)
        stopped = time.monotonic()
        stop()
        time.sleep(OUTAGE_S)
        before = writers.acknowledged()
        server.start()
        # One record may have been answered just before the end of the server.
        ctx.wait_until("fsync to go on", lambda: writers.acknowledged() > before + 1)
        ctx.note(f"stall {time.monotonic() - stopped:.1f} s")
        writers.check_alive()

    server.resize("512M")
    took = ctx.wait_until("the kernel's new size", lambda: seen_bytes(ctx) == server.size_bytes, 20)
    ctx.note(f"resize seen after {took:.1f} s")
    ctx.vm.sh(f"resize2fs {ctx.device}", 60)
    blocks = int(ctx.vm.sh(f"stat -f -c %b {ctx.mount_point}").output)
    if blocks * 1024 < 400 << 20:
        raise Failure(f"the mounted file system has {blocks} blocks after the resize")
    ctx.expect_status(5, f"fdb-nbd detach {ctx.device}", "mounted", ctx.mount_point)
    writers.check_alive()
    count = writers.stop()
    ctx.note(f"{count} records fsynced")
    ctx.unmount()
    ctx.detach_supervised(ctx.device)
    ctx.check_kernel_log()

    ctx.attach_supervised(server, "--read-only")
    ctx.fsck()
    ctx.mount("-o ro")
    writers.verify(count)
    ctx.unmount()
    ctx.expect_status(1, f"dd if=/dev/zero of={ctx.device} bs=4096 count=1 conv=fsync")
    ctx.detach_supervised("example")
    ctx.expect_status(3, f"fdb-nbd detach {ctx.device}", "not attached")
    ctx.expect_status(3, "fdb-nbd detach example", "not attached")


def seen_bytes(ctx):
    return int(ctx.vm.sh(f"blockdev --getsize64 {ctx.device}").output)
