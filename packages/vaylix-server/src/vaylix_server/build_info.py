"""How this copy of the server was built."""

from __future__ import annotations

from typing import Final

import vaylix_protocol
import vaylix_storage
from vaylix_server import session

__all__ = ["ALL_IS_COMPILED", "IS_COMPILED"]

# Whether the hot modules of the server are extension modules, made by mypyc.
IS_COMPILED: Final = not str(session.__file__).endswith(".py")
# The same for all packages that have hot modules.
ALL_IS_COMPILED: Final = IS_COMPILED and vaylix_protocol.IS_COMPILED and vaylix_storage.IS_COMPILED
