"""`python -m vaylix_server` is the `vaylix` command."""

from vaylix_server.entry import main

main()
