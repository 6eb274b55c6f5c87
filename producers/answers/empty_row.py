"""What stands in place of an answer: one row of zeros, in the form that the answers of a run have."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from tutelage.producers.stages.encode_vectors import encode_vectors
from tutelage.producers.stages.host_batch import HostBatch
from tutelage.producers.stages.places import Place
from tutelage.producers.wire_options import WireOptions
from tutelage.schemas.record import Column, Description, KeySpec, Ragged


class EmptyRow:
    """One row: zeros, and of ragged keys no elements. It decodes as any other row does.

    Args:
        options: How keys travel.
    """

    def __init__(self, options: WireOptions) -> None:
        self._options = options
        self._row: Mapping[str, Column] = {}

    def of(self, description: Description) -> Mapping[str, Column]:
        """Return the row.

        Args:
            description: What answers hold; the same each time.
        """
        if not self._row:
            self._row = {
                spec.key: _empty(spec, description, self._options) for spec in description.specs
            }
        return self._row


def _empty(spec: KeySpec, description: Description, options: WireOptions) -> Column:
    stored = spec.stored
    if spec.ragged:
        values = np.empty((0, *stored.inner), stored.wire_dtype.numpy_dtype)
        return Ragged(values, np.zeros(1, np.int64))
    if spec.encoding is None:
        return np.zeros((1, *spec.shape), spec.wire_dtype.numpy_dtype)
    # One number that is seen as a row: a whole one may take gigabytes.
    zeros = torch.zeros((), dtype=getattr(torch, spec.dtype)).expand(1, *spec.shape)
    place = Place(stream="empty", pass_index=0, batch=0)
    encoded = encode_vectors({spec.key: zeros}, options, description, place)
    return HostBatch.begin([encoded[spec.key]]).columns()[spec.key]
