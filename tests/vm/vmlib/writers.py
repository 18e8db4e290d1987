"""Load in the guest whose effect can be checked: files made and fsynced one by one, and a tree copied over and over."""

from .common import Failure

_RECORD_LINES = 3000
# Every record is its own file, and also overwrites one file in place: a stale write that lands late would show there.
_FSYNC_WRITER = """
record() {{
    seq $n $((n + {lines})) | dd of=$1 bs=64k conv=$2 2>/tmp/dd.err && return
    cat /tmp/dd.err >>/tmp/errors
    exit 1
}}
n=0
while [ ! -e /tmp/stop ]; do
    n=$((n + 1))
    record {mount}/records/$n fsync
    record {mount}/newest notrunc,fsync
    echo $n >>/tmp/acknowledged
done
"""
_TREE_WRITER = """
while [ ! -e /tmp/stop ]; do
    cp -a /tree {mount}/load && sync || {{ echo 'copying the tree failed' >>/tmp/errors; break; }}
    rm -rf {mount}/load || {{ echo 'removing the tree failed' >>/tmp/errors; break; }}
done
"""


class Writers:
    """Two writers in the background of the guest, on the file system mounted at mount_point."""

    def __init__(self, vm, mount_point):
        self._vm = vm
        self._mount = mount_point

    def start(self):
        """Starts both."""
        self._vm.sh("rm -f /tmp/stop /tmp/errors /tmp/acknowledged; mkdir " + self._mount + "/records")
        for name, text in (("fsync_writer", _FSYNC_WRITER), ("tree_writer", _TREE_WRITER)):
            script = text.format(mount=self._mount, lines=_RECORD_LINES)
            self._vm.sh(f"cat >/tmp/{name} <<'END'\n{script}\nEND\nsetsid sh /tmp/{name} >/dev/null 2>&1 &\n"
                        f"echo $! >/tmp/{name}.pid")

    def acknowledged(self):
        """How many records have been fsynced."""
        return int(self._vm.sh("cat /tmp/acknowledged 2>/dev/null | wc -l").output)

    def check_alive(self):
        """Neither writer has met an error or ended."""
        result = self._vm.sh("cat /tmp/errors 2>/dev/null; "
                             "kill -0 $(cat /tmp/fsync_writer.pid) && kill -0 $(cat /tmp/tree_writer.pid)", check=False)
        if result.status != 0 or result.output:
            raise Failure(f"a writer ended: {result.output}")

    def stop(self):
        """Ends both between two of their steps; returns how many records were fsynced."""
        self.check_alive()
        self._vm.sh("""
            touch /tmp/stop
            running() { kill -0 $(cat /tmp/fsync_writer.pid) || kill -0 $(cat /tmp/tree_writer.pid); } 2>/dev/null
            for i in $(seq 600); do
                running || break
                sleep 0.2
            done
            cat /tmp/errors 2>/dev/null && exit 1
            ! running""", 180)
        return self.acknowledged()

    def verify(self, count):
        """Every record that was fsynced is there as it was written, and the newest one is what the shared file has."""
        self._vm.sh(f"""
            echo 3 >/proc/sys/vm/drop_caches
            for n in $(seq {count}); do
                seq $n $((n + {_RECORD_LINES})) | cmp - {self._mount}/records/$n || exit 1
            done
            seq {count} $(({count} + {_RECORD_LINES})) >/tmp/expected
            head -c $(wc -c </tmp/expected) {self._mount}/newest | cmp - /tmp/expected""", 180)
