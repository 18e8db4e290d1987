"""The parts of the kernel-client test: kernel, initramfs, machine, server, scenario context."""
