#!/usr/bin/python3
"""What a press of the completion key brings, in the shells themselves."""

import os
import pty
import shutil
import signal
import subprocess
import threading

from cli_lib import *   # noqa: F403
from cli_lib import PROGRAM, eventually, expect_equal, fdb_nbd, main, memory_server, own_store, requires, served_store, test, tool, tool_path

ODD = "it's $5 \"big\""


class Shell:
    """An interactive shell on a terminal, with the completion loaded and the program as `fdb-nbd`."""

    SETUP = {
        "bash": ("bash", ["--norc", "--noprofile", "-i"], """set +o history; bind 'set bell-style none'; source <(fdb-nbd completion bash)
dump() {{ printf %s "$READLINE_LINE" > {dump}.new; mv {dump}.new {dump}; }}; bind -x '"\\C-xd": dump'; touch {ready}\n"""),
        "zsh": ("zsh", ["-f", "-i"], """setopt no_beep; autoload -U compinit; compinit -u -d {dump}.zcompdump; source <(fdb-nbd completion zsh); bindkey -e
dump() {{ print -rn -- "$BUFFER" > {dump}.new; mv {dump}.new {dump} }}; zle -N dump; bindkey '^Xd' dump; touch {ready}\n"""),
    }

    def __init__(self, name, directory, store=None):
        requires(name)
        self.dump, self.ready = f"{directory}/{name}.dump", f"{directory}/{name}.ready"
        program, arguments, setup = self.SETUP[name]
        os.makedirs(f"{directory}/bin", exist_ok=True)
        if not os.path.exists(f"{directory}/bin/fdb-nbd"):
            os.symlink(os.path.abspath(PROGRAM), f"{directory}/bin/fdb-nbd")
        environment = dict(os.environ, PATH=f"{directory}/bin:{tool_path()}", LC_ALL="C.UTF-8", TERM="dumb", INPUTRC="/dev/null", PS1="> ", HOME=directory)
        if store:
            environment["FDB_NBD_STORE"] = store
        self.pid, self.terminal = pty.fork()
        if self.pid == 0:
            os.chdir(directory)
            os.execve(shutil.which(program, path=tool_path()), [program, *arguments], environment)
        threading.Thread(target=self.drain, daemon=True).start()
        self.type(setup.format(dump=self.dump, ready=self.ready))
        eventually(f"{name} begins", lambda: os.path.exists(self.ready), within=20)
        # Keys that come before it reads them itself may be lost.
        eventually("keys work", lambda: self.type("\x15begun\x18d") or self.dumped() == "begun", within=20, every=0.2)
        self.type("\x15done\x18d")
        eventually("keys work", lambda: self.dumped() == "done", within=20)
        self.type("\x15")

    def drain(self):
        try:
            while os.read(self.terminal, 65536):
                pass
        except OSError:   # it has ended
            pass

    def type(self, text):
        os.write(self.terminal, text.encode())

    def dumped(self):
        if not os.path.exists(self.dump):
            return None
        with open(self.dump, encoding="utf-8") as file:
            return file.read()

    def complete(self, text):
        """The command line once the key is pressed behind `text`."""
        if os.path.exists(self.dump):
            os.unlink(self.dump)
        self.type(text + "\t\x18d")
        eventually(f"the completion of {text}", lambda: os.path.exists(self.dump), within=20)
        self.type("\x15")
        return self.dumped()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.kill(self.pid, signal.SIGHUP)
        os.close(self.terminal)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


def fill(store):
    for name in ("first", "größe 2", ODD):
        fdb_nbd("create", name, "1M", store=store)
    fdb_nbd("snap", "first@monday", "größe 2@x", store=store)
    fdb_nbd("snap", "first@tue day", store=store)
    fdb_nbd("create", "old", "1M", store=store)
    fdb_nbd("rm", "old", store=store)
    fdb_nbd("group", "create", "both", "first", store=store)


# What is typed, and what the line is then, where bash and zsh agree.
LINES = (
    ("fdb-nbd resi", "fdb-nbd resize "),
    ("fdb-nbd trash re", "fdb-nbd trash restore "),
    ("fdb-nbd lock br", "fdb-nbd lock break "),
    ("fdb-nbd quota ", "fdb-nbd quota set "),
    ("fdb-nbd help group rol", "fdb-nbd help group rollback "),
    ("fdb-nbd trash ls --js", "fdb-nbd trash ls --json "),
    ("fdb-nbd create x 1M --compression z", "fdb-nbd create x 1M --compression zstd "),
    ("fdb-nbd resize f", "fdb-nbd resize first "),
    ("fdb-nbd info gr", "fdb-nbd info größe\\ 2"),   # a snapshot goes on from there
    ("fdb-nbd resize gr", "fdb-nbd resize größe\\ 2 "),
    ("fdb-nbd rollback first@m", "fdb-nbd rollback first@monday "),
    ("fdb-nbd rollback first@t", "fdb-nbd rollback first@tue\\ day "),
    ("fdb-nbd rollback gr", "fdb-nbd rollback größe\\ 2@x "),
    ("fdb-nbd rollback größe\\ 2@", "fdb-nbd rollback größe\\ 2@x "),
    ("fdb-nbd snap f", "fdb-nbd snap first@"),
    ("fdb-nbd diff first@monday @t", "fdb-nbd diff first@monday @tue\\ day "),
    ("fdb-nbd trash restore ", "fdb-nbd trash restore old "),
    ("fdb-nbd group add ", "fdb-nbd group add both "),
    ("fdb-nbd import dis", "fdb-nbd import disk.img "),
    ("fdb-nbd create fir", "fdb-nbd create fir"),
)


@test(limit=180)
def bash_completes_verbs_flags_volumes_and_snapshots():
    with memory_server() as store, tempfile.TemporaryDirectory(prefix="fdb-nbd-test-") as directory:
        fill(store)
        with open(f"{directory}/disk.img", "w"):
            pass
        with Shell("bash", directory, store) as shell:
            for typed, line in LINES:
                expect_equal(typed, shell.complete(typed), line)
            expect_equal("an open quote", shell.complete('fdb-nbd resize "gr'), 'fdb-nbd resize "größe 2" ')
            expect_equal("an open quote", shell.complete("fdb-nbd rollback 'first@t"), "fdb-nbd rollback 'first@tue day' ")
            expect_equal("an odd name", shell.complete("fdb-nbd resize it"), "fdb-nbd resize it\\'s\\ \\$5\\ \\\"big\\\" ")
            expect_equal("a flag with its value", shell.complete("fdb-nbd create x 1M --compression=z"), "fdb-nbd create x 1M --compression=zstd ")


@test(limit=180)
def zsh_completes_verbs_flags_volumes_and_snapshots():
    with memory_server() as store, tempfile.TemporaryDirectory(prefix="fdb-nbd-test-") as directory:
        fill(store)
        with open(f"{directory}/disk.img", "w"):
            pass
        with Shell("zsh", directory, store) as shell:
            for typed, line in LINES:
                expect_equal(typed, shell.complete(typed), line)
            expect_equal("an odd name", shell.complete("fdb-nbd resize it"), "fdb-nbd resize it\\'s\\ \\$5\\ \\\"big\\\" ")


@test(limit=180)
def fish_completes_verbs_flags_volumes_and_snapshots():
    requires("fish")
    with memory_server() as store, tempfile.TemporaryDirectory(prefix="fdb-nbd-test-") as directory:
        fill(store)
        os.mkdir(f"{directory}/bin")
        os.symlink(os.path.abspath(PROGRAM), f"{directory}/bin/fdb-nbd")
        with open(f"{directory}/disk.img", "w"):
            pass

        def complete(line):
            environment = dict(os.environ, PATH=f"{directory}/bin:{tool_path()}", LC_ALL="C.UTF-8", HOME=directory, FDB_NBD_STORE=store)
            done = subprocess.run(["fish", "--no-config", "-c", 'fdb-nbd completion fish | source; complete -C "$argv[1]"', line], env=environment, cwd=directory,
                                  stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)
            return [candidate.split("\t")[0] for candidate in done.stdout.splitlines()]

        for typed, line in LINES:
            if "--" not in typed and "\\" not in typed:
                begun = typed.rsplit(" ", 1)[1]
                expect("the candidates", begun == "fir" or complete(typed), "some", typed)
        expect_equal("verbs", complete("fdb-nbd trash re"), ["restore"])
        expect_equal("flags", complete("fdb-nbd trash ls --js"), ["--json"])
        expect_equal("values", complete("fdb-nbd create x 1M --compression z"), ["zstd"])
        expect_equal("volumes", sorted(complete("fdb-nbd resize ")), sorted(["first", "größe 2", ODD]))
        expect_equal("snapshots", complete("fdb-nbd rollback first@"), ["first@monday", "first@tue day"])
        expect_equal("files", complete("fdb-nbd import dis"), ["disk.img"])
        expect_equal("new names", complete("fdb-nbd create fir"), [])


@test(limit=120)
def the_store_is_the_one_that_the_command_line_names():
    for store_of in (served_store, memory_server):
        with store_of() as store, tempfile.TemporaryDirectory(prefix="fdb-nbd-test-") as directory:
            fdb_nbd("create", "second", "1M", store=store)
            with Shell("bash", directory) as shell:
                line = f"fdb-nbd --store {store} info s"
                expect_equal("the line", shell.complete(line), line + "econd ")


@test
def an_embedded_store_without_a_server_has_no_names_and_is_not_opened():
    requires_embedded_store()
    with own_store() as store:
        path = store.split(":", 1)[1]
        fdb_nbd("create", "second", "1M", store=store)
        before = {entry.name: entry.stat().st_mtime_ns for entry in os.scandir(path)}
        expect_equal("the answer", tool(PROGRAM, "__complete", "words", "--store", store, "info", "").stdout, ":\n")
        # Whoever opens it makes files.
        expect_equal("its files", {entry.name: entry.stat().st_mtime_ns for entry in os.scandir(path)}, before)


@test
def a_store_that_is_not_there_has_no_names_and_is_not_made():
    requires_embedded_store()
    with own_store() as store:
        path = store.split(":", 1)[1]
        expect_equal("the answer", tool(PROGRAM, "__complete", "words", "--store", store, "info", "").stdout, ":\n")
        expect("the store", not os.path.exists(path), "not made", path)
    expect_equal("without a script's words", tool(PROGRAM, "__complete", status=2).stdout, "")


if __name__ == "__main__":
    main()
