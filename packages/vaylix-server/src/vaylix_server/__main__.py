"""`python -m vaylix_server` is the `vaylix` command."""

from vaylix_server.cli import main

main()
