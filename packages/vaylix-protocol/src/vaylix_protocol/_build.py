"""How this copy of the package was built."""

from __future__ import annotations

from typing import Final

from vaylix_protocol import _frames

__all__ = ["IS_COMPILED"]

# Whether the hot modules are extension modules, made by mypyc, or run as they are written.
IS_COMPILED: Final = not str(_frames.__file__).endswith(".py")
