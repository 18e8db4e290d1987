"""Writes an initramfs (cpio, format newc), which needs neither root nor cpio(1)."""

import stat


class Archive:
    """Collects entries and writes them to an open binary file; parents are added by themselves."""

    def __init__(self, out):
        self._out = out
        self._inode = 0
        self._known = {""}

    def _entry(self, name, mode, content=b"", device=(0, 0)):
        self._inode += 1
        encoded = name.encode() + b"\0"
        fields = (self._inode, mode, 0, 0, 1, 0, len(content), 0, 0, device[0], device[1], len(encoded), 0)
        header = b"070701" + b"".join(b"%08x" % field for field in fields)
        self._out.write(header + encoded + b"\0" * (-(len(header) + len(encoded)) % 4))
        self._out.write(content)
        self._out.write(b"\0" * (-len(content) % 4))

    def directory(self, name):
        """A directory of mode 0755, with its parents."""
        name = name.strip("/")
        if name in self._known:
            return
        self.directory(name.rpartition("/")[0])
        self._known.add(name)
        self._entry(name, stat.S_IFDIR | 0o755)

    def file(self, name, content, mode=0o644):
        """A regular file."""
        name = name.strip("/")
        self.directory(name.rpartition("/")[0])
        self._entry(name, stat.S_IFREG | mode, content)

    def symlink(self, name, target):
        """A symbolic link."""
        name = name.strip("/")
        self.directory(name.rpartition("/")[0])
        self._entry(name, stat.S_IFLNK | 0o777, target.encode())

    def character_device(self, name, major, minor):
        """A character device of mode 0600."""
        name = name.strip("/")
        self.directory(name.rpartition("/")[0])
        self._entry(name, stat.S_IFCHR | 0o600, device=(major, minor))

    def finish(self):
        """The trailer; nothing may be added after it."""
        self._entry("TRAILER!!!", 0)
