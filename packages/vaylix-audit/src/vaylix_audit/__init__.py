"""The audit log of Vaylix: hash-chained records, their verifier, and signed checkpoints.

Usable alone; needs the standard library only. Clock, files and signatures are passed in, with real
defaults. The format of the log is that of the published server, byte for byte.
"""

from vaylix_audit._chain import (
    GENESIS,
    ChainHead,
    ChainProblem,
    ChainReport,
    problem_error,
    verify_chain,
)
from vaylix_audit._checkpoints import (
    KEY_BYTES,
    SIGNATURE_BYTES_MAX,
    Checkpoint,
    HmacSigner,
    Signer,
)
from vaylix_audit._event import (
    GENESIS_HASH,
    LINE_BYTES_MAX,
    NIL_REQUEST,
    AuditEvent,
    AuditRecord,
    AuditStatus,
    decode_record,
    encode_record,
    hash_record,
)
from vaylix_audit._files import File, FileSystem, RealFileSystem
from vaylix_audit._inspection import LogCheck, check_log, checkpoints_path, verify_file
from vaylix_audit._log import CHECKPOINT_EVERY, AuditLog, OpenReport

__all__ = [
    "CHECKPOINT_EVERY",
    "GENESIS",
    "GENESIS_HASH",
    "KEY_BYTES",
    "LINE_BYTES_MAX",
    "NIL_REQUEST",
    "SIGNATURE_BYTES_MAX",
    "AuditEvent",
    "AuditLog",
    "AuditRecord",
    "AuditStatus",
    "ChainHead",
    "ChainProblem",
    "ChainReport",
    "Checkpoint",
    "File",
    "FileSystem",
    "HmacSigner",
    "LogCheck",
    "OpenReport",
    "RealFileSystem",
    "Signer",
    "check_log",
    "checkpoints_path",
    "decode_record",
    "encode_record",
    "hash_record",
    "problem_error",
    "verify_chain",
    "verify_file",
]
