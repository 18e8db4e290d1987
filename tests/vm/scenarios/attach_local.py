"""`fdb-nbd attach` to a server on the same host: through its control socket, over two connections."""

SERVE = """
fdb-nbd --store rocksdb:/tmp/local serve --listen unix:/tmp/local.sock --volume local=64M >/tmp/local.out 2>&1 &
echo $! >/tmp/local.pid
for i in $(seq 300); do
    grep -q '^listening' /tmp/local.out && exit 0
    sleep 0.1
done
cat /tmp/local.out; exit 1
"""
STORE = "--store rocksdb:/tmp/local"


def supervisor(ctx):
    # The status is the second grep's: a process that ends meanwhile is an error to the first.
    return ctx.vm.sh(f"grep -lsx fdb-nbd/{ctx.index} /proc/[0-9]*/comm | grep .").output.split("/")[2]


def lost_supervisor(ctx):
    """Without its supervisor the device does not find its server again; with a new one it does."""
    ctx.vm.sh(f"kill -9 {supervisor(ctx)}; kill -9 $(cat /tmp/local.pid)")
    ctx.vm.sh(SERVE, 60)
    ctx.vm.sh(f"""
        (dd if=/dev/urandom of={ctx.mount_point}/third bs=64k count=16 conv=fsync; echo $? >/tmp/third) &
        sleep 2
        [ ! -e /tmp/third ]""")
    ctx.vm.sh(f"fdb-nbd {STORE} attach --timeout 5 local {ctx.device}", 60)
    took = ctx.wait_until("the write to go on", lambda: ctx.vm.sh("grep -x 0 /tmp/third", check=False).status == 0)
    ctx.note(f"with a new supervisor after {took:.1f} s")


def run(ctx):
    ctx.expect_status(7, f"fdb-nbd {STORE} attach local {ctx.device}")
    ctx.vm.sh(SERVE, 60)
    ctx.expect_status(3, f"fdb-nbd {STORE} attach nothing", "nothing")
    ctx.timed("attach", f"fdb-nbd {STORE} attach --timeout 5 --connections 2 local {ctx.device}", 60)
    ctx.expect_status(5, f"fdb-nbd {STORE} attach local {ctx.device}", "attached already")
    ctx.mkfs()
    ctx.mount()
    ctx.vm.sh(f"dd if=/dev/urandom of={ctx.mount_point}/before bs=64k count=64 conv=fsync")
    ctx.vm.sh(f"""
        kill -9 $(cat /tmp/local.pid)
        (dd if={ctx.mount_point}/before of={ctx.mount_point}/after bs=64k conv=fsync; echo $? >/tmp/copied) &
        sleep 1
        [ ! -e /tmp/copied ]""")
    ctx.vm.sh(SERVE, 60)
    took = ctx.wait_until("the copy to go on", lambda: ctx.vm.sh("[ -e /tmp/copied ]", check=False).status == 0)
    ctx.note(f"went on after {took:.1f} s")
    ctx.vm.sh(f"""
        [ $(cat /tmp/copied) = 0 ] && echo 3 >/proc/sys/vm/drop_caches &&
        cmp {ctx.mount_point}/before {ctx.mount_point}/after""")
    ctx.vm.sh(f"fdb-nbd {STORE} resize local 128M")
    ctx.wait_until("the kernel's new size", lambda: ctx.vm.sh(
        f"blockdev --getsize64 {ctx.device}").output.strip() == str(128 << 20), 20)
    ctx.expect_status(5, "fdb-nbd detach local", "mounted")
    lost_supervisor(ctx)
    ctx.unmount()
    # The supervisor detaches when it is told to end and nobody uses the device.
    ctx.vm.sh(f"kill -TERM {supervisor(ctx)}")
    ctx.wait_until("the end of the device", lambda: ctx.vm.sh(
        f"[ -e /sys/block/nbd{ctx.index}/pid ]", check=False).status != 0, 20)
    # A server that still ends removes its own files, and `rm` would meet them.
    ctx.vm.sh("""
        pid=$(cat /tmp/local.pid); kill $pid
        for i in $(seq 300); do
            [ -e /proc/$pid/exe ] || { rm -rf /tmp/local*; exit; }
            sleep 0.1
        done
        cat /tmp/local.out; exit 1""", 60)
