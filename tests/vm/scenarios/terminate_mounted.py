"""SIGTERM of the server under a mounted file system in use: status 0, no I/O error, and nothing is lost."""

from scenarios.kill_mounted import restart_under_load


def run(ctx):
    def terminate(server):
        ctx.note(f"SIGTERM to exit {server.terminate():.1f} s")

    restart_under_load(ctx, 2, terminate)
