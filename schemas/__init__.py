"""The contract both sides share: records, schemas, codec, framing, registry, container files, errors.

Knows no threads and no torch. `producers` and `consumers` import it; it imports neither.
"""

from tutelage.schemas.errors import TutelageError
from tutelage.schemas.record import Description, KeySpec, Ragged, Stream
from tutelage.schemas.registry import HttpRegistry, LocalRegistry, Registry

__all__ = ["Description", "HttpRegistry", "KeySpec", "LocalRegistry", "Ragged", "Registry", "Stream", "TutelageError"]
