"""Side-by-side benchmark of NBD servers: see bench/README.md."""
