"""What a scenario works with: a guest, servers, and the steps that several scenarios share."""

import time

from . import tree
from .common import Failure
from .machine import HOST_ADDRESS
from .server import EXPORT

# Lines of the guest's kernel that no scenario may cause: an error that reached a user of the device, or a file system
# that noticed something.
BAD_KERNEL_LINES = ["I/O error", "EXT4-fs error", "EXT4-fs warning", "Other side returned error", "Aborting journal",
                    "Remounting filesystem read-only", "Double reply", "Wrong magic", "Unexpected reply",
                    "Suspicious reply", "blocked for more than", "BUG:", "Oops", "lost async page write"]

# Devices that no scenario uses, for warm_up_receivers().
FIRST_SPARE_INDEX = 8
# Requests in flight on a dead connection are sent again when this has passed, not when the device has a new one.
REQUEST_TIMEOUT_S = 15
SUPERVISED_REQUEST_TIMEOUT_S = 5


class Context:
    """One run of one scenario. `device` is a /dev/nbdN that no other scenario of this guest has used."""

    def __init__(self, vm, make_server, device_index):
        self.vm = vm
        self.index = device_index
        self.device = f"/dev/nbd{device_index}"
        self.mount_point = f"/mnt/{device_index}"
        self.notes = []
        self._make_server = make_server
        self.servers = []

    def server(self, size):
        """A running server with an empty volume EXPORT of the given size ("1G")."""
        server = self._make_server(size)
        self.servers.append(server)
        server.start()
        return server

    def note(self, text):
        """Something measured, printed with the scenario's result."""
        self.notes.append(text)

    def timed(self, what, script, timeout_s):
        """Runs a script and notes how long it took."""
        result = self.vm.sh(script, timeout_s)
        self.note(f"{what} {result.seconds:.1f} s")
        return result

    def attach(self, server, connection_count=1):
        """Attaches the volume with nbd-client; checks the size and, where there are several, the connections."""
        options = ""
        if connection_count > 1:
            self.warm_up_receivers(server, connection_count)
            options = f"-C {connection_count}"
        self.vm.sh(f"nbd-client -N {EXPORT} {HOST_ADDRESS} {server.port} {self.device} {options}", 30)
        self.expect_size(server.size_bytes)
        queues = self.vm.sh(f"ls /sys/block/nbd{self.index}/mq | wc -l").output.strip()
        if queues != str(connection_count):
            raise Failure(f"the kernel has {queues} queues for {connection_count} connections")
        self.wait_until(f"{connection_count} open connections",
                        lambda: server.established_count() == connection_count, 20)

    def warm_up_receivers(self, server, connection_count):
        """Makes the guest's kernel ready for a device with several connections.

        The kernel reads the replies of each connection in a worker of its own. Where it makes workers too slowly, as an
        emulated CPU may, the work queue's rescuer takes the reading of several connections and never gets past the first,
        so that the replies on the others are seen by nobody. Workers that are there already, idle, make that impossible.
        Devices with one connection each cannot meet this, and leave such workers behind.
        """
        self.vm.sh(f"""
            idle_workers() {{ awk '$2 ~ /kworker\\/u/ && $19 == -20' /proc/[0-9]*/stat 2>/dev/null | wc -l; }}
            spare() {{ seq {FIRST_SPARE_INDEX} {FIRST_SPARE_INDEX + connection_count}; }}
            for i in $(seq 10); do
                [ $(idle_workers) -gt {connection_count} ] && exit 0
                for n in $(spare); do nbd-client -N {EXPORT} {HOST_ADDRESS} {server.port} /dev/nbd$n || exit 1; done
                sleep 1
                for n in $(spare); do nbd-client -d /dev/nbd$n || exit 1; done
                sleep 1
            done
            echo "the kernel has $(idle_workers) workers"; exit 1""", 120)

    def expect_size(self, size_bytes):
        """The kernel's size of the device, once it has one."""
        seen = self.vm.sh(f"""
            for i in $(seq 100); do
                [ "$(blockdev --getsize64 {self.device})" != 0 ] && break
                sleep 0.1
            done
            blockdev --getsize64 {self.device}""").output.strip()
        if seen != str(size_bytes):
            raise Failure(f"the kernel sees {seen} bytes, the volume has {size_bytes}")

    def detach(self):
        """Detaches the device and waits until the kernel has let go of it."""
        self.vm.sh(f"""
            nbd-client -d {self.device} || exit 1
            for i in $(seq 100); do
                [ -e /sys/block/nbd{self.index}/pid ] || exit 0
                sleep 0.1
            done
            echo 'still attached after 10 s'; exit 1""", 30)

    def attach_netlink(self, server, connection_count, dead_timeout_s):
        """Attaches so that the device waits dead_timeout_s for fresh sockets when its connections die."""
        if connection_count > 1:
            self.warm_up_receivers(server, connection_count)
        self.vm.sh(f"nbd-netlink connect {self.index} {HOST_ADDRESS} {server.port} {EXPORT} "
                   f"{connection_count} {dead_timeout_s} {REQUEST_TIMEOUT_S}", 30)
        self.expect_size(server.size_bytes)

    def reconfigure(self, server, connection_count, timeout_s=30):
        """Gives the device sockets to a restarted server, one for each connection."""
        command = f"nbd-netlink reconfigure {self.index} {HOST_ADDRESS} {server.port} {EXPORT} {connection_count}"
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            self.vm.sh(command, 30)
            # The kernel takes sockets only for connections it knows to be dead, and says "done" where it took none.
            for _ in range(10):
                time.sleep(0.1)
                if server.established_count() == connection_count:
                    return
        raise Failure(f"{timeout_s} s after its restart the server has {server.established_count()} of "
                      f"{connection_count} connections")

    def attach_supervised(self, server, options=""):
        """Attaches with `fdb-nbd attach`, whose supervisor finds the server again when it was away."""
        printed = self.vm.sh(f"fdb-nbd attach --connect tcp://{HOST_ADDRESS}:{server.port} "
                             f"--timeout {SUPERVISED_REQUEST_TIMEOUT_S} {options} {EXPORT} {self.device}", 60).output
        if printed.strip() != self.device:
            raise Failure(f"attach printed {printed!r}")
        self.expect_size(server.size_bytes)

    def detach_supervised(self, target):
        """Detaches a device or a volume; neither the attachment nor its supervisor is left."""
        self.vm.sh(f"""
            fdb-nbd detach {target} || exit
            [ ! -e /sys/block/nbd{self.index}/pid ] || {{ echo 'still attached'; exit 1; }}
            ! grep -sx fdb-nbd/{self.index} /proc/[0-9]*/comm | grep .""", 60)

    def expect_status(self, status, script, *words):
        """The script must end with this status and say these words."""
        result = self.vm.sh(script, 60, check=False)
        if result.status != status or not all(word in result.output for word in words):
            raise Failure(f"expected status {status} and {words}, got {result.status} from: {script}\n{result.output}")

    def mkfs(self, options="", timeout_s=120):
        """Makes the ext4 file system."""
        return self.timed("mkfs", f"mkfs.ext4 -F -q {options} {self.device} && sync", timeout_s)

    def mount(self, options=""):
        """Mounts the device's ext4 file system."""
        self.vm.sh(f"mkdir -p {self.mount_point} && mount -t ext4 {options} {self.device} {self.mount_point}", 60)

    def unmount(self):
        """Unmounts it; what is dirty reaches the device first."""
        self.vm.sh(f"umount {self.mount_point}", 120)

    def fsck(self, timeout_s=120):
        """e2fsck -fn must find nothing at all."""
        return self.timed("fsck", f"e2fsck -fn {self.device}", timeout_s)

    def copy_tree(self):
        """Copies the tree to the mounted file system and syncs."""
        self.timed("copy", f"cp -a /tree {self.mount_point}/ && sync", 180)

    def verify_tree(self):
        """Every file of the tree is there with its checksum, read from the device, and no other file is."""
        result = self.timed("verify", f"""
            echo 3 >/proc/sys/vm/drop_caches
            cd {self.mount_point}/tree || exit 1
            find . -type f | wc -l
            sha256sum -c /tree.sha256 >/tmp/sums 2>&1
            status=$?
            grep -v ': OK$' /tmp/sums
            grep -c ': OK$' /tmp/sums
            exit $status""", 180)
        lines = result.output.split()
        expected = len(tree.make_tree())
        if lines != [str(expected)] * 2:
            raise Failure(f"expected {expected} files, all with equal checksums; the guest says {result.output}")
        self.note(f"{expected} files equal")

    def mark_kernel_log(self):
        """From here on the guest's kernel log belongs to this scenario."""
        self.vm.sh("dmesg -c >/dev/null")

    def check_kernel_log(self):
        """The guest's kernel has logged nothing bad since the mark."""
        log = self.vm.sh("dmesg").output
        bad = [line for line in log.splitlines() if any(pattern in line for pattern in BAD_KERNEL_LINES)]
        if bad:
            raise Failure("the guest's kernel logged:\n" + "\n".join(bad[:20]) + "\n--- all of it\n" + log)

    def wait_until(self, what, condition, timeout_s=60):
        """Polls until condition() is true; returns the seconds it took."""
        started = time.monotonic()
        while not condition():
            if time.monotonic() - started > timeout_s:
                raise Failure(f"waited {timeout_s} s in vain for: {what}")
            time.sleep(0.2)
        return time.monotonic() - started
