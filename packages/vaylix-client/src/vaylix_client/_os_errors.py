"""The words of the operating system, as the published client prints them."""

from __future__ import annotations

import os
import socket
import ssl

__all__ = ["describe_os_error"]


def describe_os_error(error: OSError) -> str:
    """Return the system's text with its number, as the published client prints it."""
    if isinstance(error, ssl.SSLError):
        return error.reason or str(error)
    if error.errno is None or error.strerror is None or isinstance(error, socket.gaierror):
        return error.strerror or str(error) or type(error).__name__
    # asyncio writes its own sentence into strerror; the system's text is the stable one.
    return f"{os.strerror(error.errno)} (os error {error.errno})"
