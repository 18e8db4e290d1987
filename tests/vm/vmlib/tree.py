"""The tree of files that the scenarios copy: the same bytes in every run."""

import hashlib
import random

SEED = 20240229
# Around every boundary that a disk or a file system has: sector, 4 KiB block, 64 KiB, 1 MiB.
EDGE_SIZES = [0, 1, 2, 511, 512, 513, 4095, 4096, 4097, 8191, 8192, 65535, 65536, 65537, 1048575, 1048576, 1048577]
LARGE_SIZES = [2 << 20, 3 << 20, (5 << 20) + 123]
SMALL_FILE_COUNT = 500
MEDIUM_FILE_COUNT = 60


def _content(rng, size):
    kind = rng.randrange(4)
    if kind == 0:
        return rng.randbytes(size)
    if kind == 1:
        word = rng.randbytes(7).hex().encode()
        return (word * (size // len(word) + 1))[:size]
    if kind == 2:
        return bytes(size)
    # Runs of zeros between runs of random bytes: blocks that compress, blocks that do not, zero blocks.
    parts = []
    left = size
    while left > 0:
        length = min(left, rng.randrange(1, 20000))
        parts.append(rng.randbytes(length) if rng.randrange(2) else bytes(length))
        left -= length
    return b"".join(parts)


def make_tree():
    """A list of (relative path, content)."""
    rng = random.Random(SEED)
    sizes = [("edge", size) for size in EDGE_SIZES] + [("large", size) for size in LARGE_SIZES]
    sizes += [("small", rng.randrange(0, 12000)) for _ in range(SMALL_FILE_COUNT)]
    sizes += [("medium", rng.randrange(12000, 400000)) for _ in range(MEDIUM_FILE_COUNT)]
    tree = []
    for number, (kind, size) in enumerate(sizes):
        folder = "/".join([kind] + [f"d{rng.randrange(6)}" for _ in range(number % 4)])
        # A few long names, so that directories take more than one block.
        name = f"{number:04d}" + ("-" + "n" * 200 if number % 9 == 0 else "")
        tree.append((f"{folder}/{name}", _content(rng, size)))
    return tree


def checksum_list(tree):
    """The tree's checksums as sha256sum(1) prints and checks them."""
    lines = [f"{hashlib.sha256(content).hexdigest()}  ./{path}\n" for path, content in sorted(tree)]
    return "".join(lines).encode()
