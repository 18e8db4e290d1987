#!/usr/bin/python3
"""What the documents say works as they say it."""

import json
import os
import re
import socket
import subprocess
import tempfile

from cli_lib import *   # noqa: F403
from cli_lib import PROGRAM, ROOT, Server, expect, expect_equal, expect_words, fdb_nbd, json_of, main, memory_server, requires, test, tool, tool_path


def document(*path):
    with open(os.path.join(ROOT, *path), encoding="utf-8") as file:
        return file.read()


def section(text, title):
    """From the heading to the next one."""
    return re.search(rf"^#+ {re.escape(title)}\n(.*?)(?=^#+ |\Z)", text, flags=re.MULTILINE | re.DOTALL)[1]


def commands(text):
    """The indented lines, without their comments."""
    return [re.sub(r"\s+# .*", "", line).strip() for line in text.splitlines() if line.startswith("    ") and line.strip()]


class Place:
    """A directory in which `fdb-nbd` is the program, and the store is that of a server."""

    def __init__(self, directory, store):
        self.directory, self.store = directory, store
        os.mkdir(f"{directory}/bin")
        os.symlink(os.path.abspath(PROGRAM), f"{directory}/bin/fdb-nbd")

    def run(self, command):
        environment = dict(os.environ, PATH=f"{self.directory}/bin:{tool_path()}", LC_ALL="C.UTF-8", FDB_NBD_STORE=self.store)
        done = subprocess.run(["bash", "-o", "pipefail", "-c", command], cwd=self.directory, env=environment, stdin=subprocess.DEVNULL, capture_output=True,
                              text=True, check=False)
        expect(command, done.returncode == 0, "exit status 0", f"{done.returncode}: {done.stderr}")
        return done.stdout


@test(limit=300)
def the_commands_of_the_readme_work_one_after_the_other():
    requires("qemu-img", "bash")
    lines = commands(section(document("README.md"), "Use"))
    expect("the commands", len(lines) > 25, "all of them", lines)
    with tempfile.TemporaryDirectory(prefix="fdb-nbd-test-") as directory, Server(volumes={}, store="rocksdb:DIR") as server:
        place = Place(directory, server.held_store)
        with open(f"{directory}/image.raw.in", "wb") as file:
            file.write(pattern(MiB, 1))
            file.truncate(8 * MiB)
        tool("qemu-img", "convert", "-f", "raw", "-O", "qcow2", f"{directory}/image.raw.in", f"{directory}/image.qcow2")
        for line in lines:
            if line.startswith("sudo ") or "--from-fdb-nbd-py" in line:
                continue
            line = line.replace("migrate rocksdb:/var/lib/fdb-nbd fdb:", f"migrate {server.held_store} rocksdb:{directory}/other")
            line = line.replace("ssh backup fdb-nbd", f"fdb-nbd --store rocksdb:{directory}/backup")
            line = line.replace("nbd://127.0.0.1/", f"nbd://127.0.0.1:{server.port}/")
            place.run(line)
        expect_equal("the image", tool("qemu-img", "info", f"{directory}/backup.qcow2").stdout.splitlines()[1], "file format: qcow2")
        expect_equal("the copy's snapshots", [s["name"] for s in json_of("info", "disk", store=f"rocksdb:{directory}/backup")["snapshots"]], ["monday", "tuesday"])
        expect_equal("the migrated volumes", fdb_nbd("ls", "--names", store=f"rocksdb:{directory}/other").stdout, "disk\n")
        for name in ("image.raw.in", "image.raw"):
            with open(f"{directory}/{name}", "rb") as file:
                expect_data(name, file.read(), pattern(MiB, 1) + bytes(7 * MiB))


@test(limit=180)
def the_commands_about_backup_work_one_after_the_other():
    requires("bash")
    text = document("docs", "backup.md")
    diffs = [line.replace("VOL", "vol").replace("@A", "@mon").replace("@B", "@tue") for line in commands(section(text, "What has changed: `diff`"))]
    streams = commands(section(text, "Incremental backup: `export-diff` and `import-diff`"))
    expect_equal("the commands", (len(diffs), len(streams)), (4, 5))
    with tempfile.TemporaryDirectory(prefix="fdb-nbd-test-") as directory, Server(volumes={"vol": 8 * MiB}, store="rocksdb:DIR") as server:
        place = Place(directory, server.held_store)
        for snapshot in ("mon", "tue"):
            with server.session("vol") as wire:
                wire.write(0, pattern(MiB, ord(snapshot[0])))
                wire.disconnect()
            place.run(f"fdb-nbd snap vol@{snapshot}")
        for line in diffs:
            expect("what it says", place.run(line), "something", line)
        for number, line in enumerate(streams):
            if "ssh" in line:   # by another way what the line before has done
                place.run(f"fdb-nbd --store rocksdb:{directory}/B rollback vol@mon && fdb-nbd --store rocksdb:{directory}/B rm vol@tue")
            line = line.replace("VOL", "vol").replace("/backup/", f"{directory}/").replace("--store B", f"--store rocksdb:{directory}/B")
            place.run(line.replace("ssh HOST fdb-nbd", f"fdb-nbd --store rocksdb:{directory}/B"))
            if number >= 3:
                expect_data("the copy", subprocess.run([PROGRAM, "--store", f"rocksdb:{directory}/B", "export", "vol", "-"], capture_output=True, check=True).stdout,
                            pattern(MiB, ord("t")) + bytes(7 * MiB))


@test(limit=180)
def the_commands_about_migration_work():
    requires("bash")
    lines = commands(document("docs", "migrate.md"))
    expect_equal("the commands", len([line for line in lines if line.startswith("fdb-nbd migrate")]), 5)
    with tempfile.TemporaryDirectory(prefix="fdb-nbd-test-") as directory, Server(volumes={"db": MiB, "web": MiB}, store="rocksdb:DIR") as server:
        place = Place(directory, server.held_store)
        for number, line in enumerate(lines):
            if not line.startswith("fdb-nbd"):
                continue
            source = "|".join(re.escape(url) for url in ("rocksdb:/var/lib/fdb-nbd fdb:", "fdb: rocksdb:/backup/store", "control:/run/fdb-nbd.sock fdb:?prefix=new", "SRC DST"))
            line, count = re.subn(f"migrate (--catch-up )?({source})", rf"migrate \1{server.held_store} rocksdb:{directory}/{'used' if 'SRC' in line else number}", line)
            expect_equal(f"stores in {line}", count, 1)
            place.run(line)
            if "--catch-up" not in line:
                expect_words(fdb_nbd("ls", "--names", store=f"rocksdb:{directory}/{'used' if 'used' in line else number}").stdout, "db")


@test
def the_control_socket_takes_the_verbs_and_fields_of_its_table():
    rows = re.findall(r"^\| ((?:`[a-z-]+`(?:, )?)+) \|(.*?)\|(.*)\|$", document("docs", "control.md"), flags=re.MULTILINE)
    fields = {}
    for verbs, row, _ in rows:
        row = re.sub(r"\([^)]*\)|: [^;,]*@[^;,]*", "", row)
        for verb in re.findall(r"`([a-z-]+)`", verbs):
            fields[verb] = re.findall(r"`([a-z_]+)`", row)
    with open(os.path.join(ROOT, "src", "control", "messages.h"), encoding="utf-8") as source:
        known = set(re.findall(r'kVerb = "([a-z-]+)"', source.read()))
    fields["import-finish"] = fields["import-begin"]   # "the same"
    expect_equal("verbs", set(fields), known)
    with memory_server() as store, socket.socket(socket.AF_UNIX) as control:
        control.connect(store.split(":", 1)[1])
        answers = control.makefile("r")

        def error_of_request(request):
            control.sendall(json.dumps(request).encode() + b"\n")
            answer = json.loads(answers.readline())
            return answer["error"]["message"] if "error" in answer else ""

        for verb, names in fields.items():
            request = {"verb": verb, "nonsense": 1}
            while missing := re.search(r'"([a-z_]+)" is missing', error_of_request(request)):
                expect(f"a field of {verb}", missing[1] in names, f"one of {names}", missing[1])
                name = missing[1]
                request[name] = ["x@y"] if name in ("names", "labels", "volumes") else 4096 if re.search("_bytes$|_size$|_id$", name) else False if name == "disconnect" else "none"
            expect_words(error_of_request(request), "nonsense")
            del request["nonsense"]
            for name in names:
                expect_words(error_of_request(request | {name: {"no": "such value"}}), f'"{name}"')
        answers.close()


@test
def help_and_readme_tell_every_verb_and_every_exit_status():
    text = tool(PROGRAM, "help").stdout
    for status, meaning in enumerate(("done", "failed", "usage", "not found", "exists", "busy", "fenced", "store unreachable", "no space or quota", "corruption found", "differs")):
        expect_words(" ".join(text.split()), f"{status} {meaning}")
    for verb in ("serve create ls info resize rm mv snap rollback clone flatten import export diff export-diff import-diff cp du check trash lock label quota group "
                 "attach detach status migrate bench completion version help").split():
        expect(f"the line of {verb}", re.search(rf"^  {verb}\b", text, flags=re.MULTILINE), "one", text)
        expect_words(tool(PROGRAM, "help", verb).stdout, f"fdb-nbd {verb}")


if __name__ == "__main__":
    main()
