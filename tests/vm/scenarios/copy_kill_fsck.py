"""A tree of files copied over nbd-client survives a detach, a SIGKILL of the server and its restart."""


def copy_and_check(ctx, connection_count):
    """The scenario over any number of connections."""
    server = ctx.server("1G")
    ctx.attach(server, connection_count)
    ctx.mkfs()
    ctx.mount()
    ctx.copy_tree()
    ctx.unmount()
    ctx.detach()
    server.kill()
    server.start()
    ctx.attach(server, connection_count)
    ctx.fsck()
    ctx.mount("-o ro")
    ctx.verify_tree()
    ctx.unmount()
    ctx.detach()


def run(ctx):
    copy_and_check(ctx, 1)
