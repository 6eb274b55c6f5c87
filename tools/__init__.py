"""What the commands do, as a library.

`record`, `replay`, `verify`, `repair` and `inspect` return typed results and print nothing:

    from tutelage import FileSource
    from tutelage.tools import verify

    print(verify(FileSource("teacher1.avro")).counts.rows)
"""

from __future__ import annotations

from tutelage.tools.copy import record, replay
from tutelage.tools.in_order import Counts
from tutelage.tools.inspect import Inspected, inspect
from tutelage.tools.repair import Repaired, repair
from tutelage.tools.verify import Verified, verify

__all__ = [
    "Counts",
    "Inspected",
    "Repaired",
    "Verified",
    "inspect",
    "record",
    "repair",
    "replay",
    "verify",
]
