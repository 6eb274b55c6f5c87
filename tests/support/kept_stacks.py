"""Folders of stacks whose processes have ended, as `up` and a stop leave them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

#: What brokers and the registry leave in their data folders.
WRITTEN = (
    "kafka-1/meta.properties",
    "kafka-1/.lock",
    "kafka-1/.kafka_cleanshutdown",
    "kafka-1/bootstrap.checkpoint",
    "kafka-1/replication-offset-checkpoint",
    "kafka-1/__cluster_metadata-0/quorum-state",
    "kafka-1/__cluster_metadata-0/00000000000000000020-0000000001.checkpoint",
    "kafka-1/teacher1.to-student-0/00000000000000000000.log",
    "kafka-1/teacher1.to-student-0/00000000000000000000.timeindex.deleted",
    "kafka-1/teacher1.to-student-0/leader-epoch-checkpoint",
    "kafka-1/teacher1.to-student-0/partition.metadata",
    "kafka-1/gone-0.0123456789abcdef0123456789abcdef-delete/00000000000000000007.snapshot",
    "kafka-1.properties",
    "kafka-1.log",
    "log4j.properties",
    "registry/schemas.mv.db",
    "registry/schemas.trace.db",
    "registry.log",
)


def kept_state(folder: Path, port: int = 1, **changed: Any) -> dict[str, Any]:
    """What `stack.json` of a stack with one broker says; both processes have ended."""
    place = {"port": port, "controller": port, "advertised": port, "internal": None}
    ended = {"pid": os.getpid(), "created": 0.0}
    state = {
        "format": 2,
        "folder": str(folder),
        "brokers": [place],
        "registry": {"port": port, "management": port},
        "complete": True,
        "started": {"kafka-1": ended, "registry": ended},
    }
    return state | changed


def keep_stack(folder: Path, port: int = 1, **changed: Any) -> None:
    """Make the folder of a stack whose processes have ended."""
    folder.mkdir(mode=0o700)
    for name in WRITTEN:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    (folder / "stack.json").write_text(
        json.dumps(kept_state(folder, port, **changed)), encoding="utf-8"
    )
