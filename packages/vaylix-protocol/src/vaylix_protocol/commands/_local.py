"""Commands that the command-line client answers by itself, and the stand-in for broken ones."""

from __future__ import annotations

import msgspec

from vaylix_protocol._constants import Opcode
from vaylix_protocol.errors import ErrorCode

__all__ = ["Exit", "Help", "InvalidPayload"]


class Help(msgspec.Struct, frozen=True, gc=False):
    """Show the command table. Sending it is TRN-004."""


class Exit(msgspec.Struct, frozen=True, gc=False):
    """Leave the client. Sending it is TRN-004."""


class InvalidPayload(msgspec.Struct, frozen=True, gc=False):
    """Stands in for a command whose payload did not decode.

    A server answers it with an error reply, at its turn, and the connection goes on
    (VTP2 section 9, step 7). `error_code` is TRN-007, TRN-008 or TRN-012.
    """

    opcode: Opcode
    error_code: ErrorCode
