"""The offline tools of the `vaylix` command: thin, since vaylix_storage does the work."""

from vaylix_server.tools._common import OutputError
from vaylix_server.tools.keys import keys
from vaylix_server.tools.pitr import pitr
from vaylix_server.tools.storage import storage

__all__ = ["OutputError", "keys", "pitr", "storage"]
