"""mkfs.ext4 discards all of a 1 TiB volume, makes a file system on it in sane time, and the file system works."""

from vmlib.common import Failure

# For 1 TiB in requests of up to 4 GiB - 1, with nothing to discard.
DISCARD_LIMIT_S = 15
# Nearly all of mkfs is zeros that it writes to the journal at the speed of the emulated network. The journal's default
# size here, 1 GiB, would show nothing more than this.
JOURNAL_MIB = 256
# `-T largefile` is one inode per MiB; e2fsck's time is in the number of inodes.
MKFS_LIMIT_S = 120
# One TRIM for each block group of 128 MiB; all 8,192 of them would take the emulated CPU a minute.
FSTRIM_GIB = 64
# The tree is 28 MiB. A thin volume keeps nothing of the journal's zeros.
STORE_LIMIT_BYTES = 100 << 20
# Most of the 13 MiB of the tree's blocks that are not zeros.
FREED_BYTES = 10 << 20


def run(ctx):
    server = ctx.server("1T")
    ctx.attach(server)
    discard = ctx.vm.sh(f"cat /sys/block/nbd{ctx.index}/queue/discard_max_bytes").output.strip()
    if discard == "0":
        raise Failure("the server does not offer TRIM")
    ctx.timed("blkdiscard", f"blkdiscard {ctx.device}", DISCARD_LIMIT_S)
    ctx.mkfs(f"-E discard -T largefile -J size={JOURNAL_MIB}", MKFS_LIMIT_S)
    ctx.mount("-o discard")
    ctx.copy_tree()
    ctx.timed("fstrim", f"fstrim -l {FSTRIM_GIB}g {ctx.mount_point}", 60)
    ctx.verify_tree()
    store_bytes = server.store_bytes()
    ctx.note(f"store {store_bytes >> 20} MiB")
    if server.keeps_zeros_out and store_bytes > STORE_LIMIT_BYTES:
        raise Failure(f"the store takes {store_bytes >> 20} MiB, more than {STORE_LIMIT_BYTES >> 20} MiB")
    with_tree = server.used_bytes()
    ctx.vm.sh(f"rm -rf {ctx.mount_point}/tree && sync", 60)
    if with_tree is not None:
        ctx.wait_until("the discards of a removed tree to free its space",
                       lambda: server.used_bytes() <= with_tree - FREED_BYTES)
        ctx.note(f"used {with_tree >> 20} MiB, {server.used_bytes() >> 20} MiB once the tree is removed")
    ctx.unmount()
    ctx.fsck()
    ctx.detach()
