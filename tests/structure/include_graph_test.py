#!/usr/bin/python3
"""Dependencies point one way: what each module of src/ may include, and where outside libraries may be seen.

The table is the one in src/README.md; change both together.
"""
import pathlib
import re
import sys

MODULES = {
    "base": "",
    "async": "base",
    "proto": "base",
    "block": "base async",
    "kv": "base async",
    "kv/memory": "base async kv",
    "kv/rocks": "base async kv",
    "kv/fdb": "base async kv",
    "net": "base async",
    "session": "base async proto block net",
    "volume": "base async block kv",
    "config": "base net",
    "control": "base async block kv net volume",
    "server": "base async block kv kv/memory kv/rocks kv/fdb net session volume config control",
    "legacy": "base async kv",
    "attach": "base net proto",
    "backup": "base",
    "cli": "base async attach backup config control legacy net proto server volume",
}

# Tests and test support may also use these.
TEST_EXTRA = {"volume": "kv/memory", "legacy": "kv/memory", "control": "kv/memory session", "session": "kv/memory volume"}

# An outside library, and the only files that may include it.
LIBRARIES = {
    r"rocksdb/": r"kv/rocks/.*\.(cc|h)$",
    r"toml(\.hpp|11/|/)": r"config/.*\.cc$",
    r"CLI/": r"cli/.*\.(cc|h)$",
    r"nlohmann/": r"(control|cli|server)/.*\.cc$|control/json\.h$",
    r"libnbd\.h": r"cli/.*\.cc$",
    r"(netlink/|linux/nbd)": r"attach/.*\.cc$",
    r"(lz4|zstd|xxhash)\.h": r"(volume|backup)/.*\.cc$",
    r"zlib\.h": r"legacy/.*\.cc$",
    r"gnutls/": r"net/.*\.cc$",
}

LINES_LIMIT = 700


def module_of(path):
    parts = path.split("/")
    if len(parts) >= 3 and "/".join(parts[:2]) in MODULES:
        return "/".join(parts[:2])
    return parts[0]


def main():
    root = pathlib.Path(sys.argv[1]) / "src"
    problems = []
    files = sorted(p for p in root.rglob("*") if p.suffix in (".h", ".cc"))
    if len(files) < 50:
        problems.append(f"only {len(files)} source files found below {root}")
    seen = set()
    for file in files:
        name = file.relative_to(root).as_posix()
        module = module_of(name)
        seen.add(module)
        if module not in MODULES:
            problems.append(f"{name}: module {module} is not in the table")
            continue
        allowed = {module, *MODULES[module].split()}
        if re.search(r"_(test|fuzz|testing|bench)\.(cc|h)$", name):
            allowed |= set(TEST_EXTRA.get(module, "").split())
        lines = file.read_text().split("\n")
        if len(lines) > LINES_LIMIT:
            problems.append(f"{name}: {len(lines)} lines; look for the name of the missing half")
        for number, line in enumerate(lines, 1):
            match = re.match(r'\s*#\s*include\s+(["<])([^">]+)[">]', line)
            if not match:
                continue
            target = match.group(2)
            if match.group(1) == '"':
                if not (root / target).is_file():
                    problems.append(f"{name}:{number}: {target} is not a file of src/")
                elif module_of(target) not in allowed:
                    problems.append(f"{name}:{number}: {module} must not include {target}")
            for library, where in LIBRARIES.items():
                if re.match(library, target) and not re.match(where, name) and not re.search(r"_(test|testing)\.cc$", name):
                    problems.append(f"{name}:{number}: {target} may only be included in {where}")
    for module in MODULES:
        if (root / module).is_dir() and module not in seen and any((root / module).iterdir()):
            problems.append(f"module {module} has no source files")
    for problem in problems:
        print(problem)
    print(f"{len(files)} files, {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
