"""The same over four connections: the kernel spreads requests over them and a flush on one covers all."""

from scenarios.copy_kill_fsck import copy_and_check


def run(ctx):
    copy_and_check(ctx, 4)
