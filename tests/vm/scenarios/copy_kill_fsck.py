"""A tree of files copied over nbd-client survives a detach, a SIGKILL of the server and its restart."""


def copy_and_check(ctx, client_options="", while_attached=None):
    """The scenario with any options of nbd-client; while_attached(server) runs after each attach."""
    server = ctx.server("1G")
    ctx.attach(server, client_options)
    if while_attached:
        while_attached(server)
    ctx.mkfs()
    ctx.mount()
    ctx.copy_tree()
    ctx.unmount()
    ctx.detach()
    server.kill()
    server.start()
    ctx.attach(server, client_options)
    if while_attached:
        while_attached(server)
    ctx.fsck()
    ctx.mount("-o ro")
    ctx.verify_tree()
    ctx.unmount()
    ctx.detach()


def run(ctx):
    copy_and_check(ctx)
