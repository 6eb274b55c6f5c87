"""The checksum of everything that reached a student.

Equal digests mean equal rows, bit for bit and in order.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import xxhash

if TYPE_CHECKING:
    import torch

    from tutelage.consumers.stages.batches import Batch


class Digest:
    """The xxh3-128 of each key's rows in order, combined over the keys.

    Guarantee: for dense keys the digest does not depend on the batch size.
    """

    def __init__(self) -> None:
        self._keys: dict[str, xxhash.xxh3_128] = {}

    def add(self, batch: Batch) -> None:
        """Add a batch's rows."""
        from tutelage.consumers.stages.torch_view import tensor_bytes

        for key, values in _tensors(batch):
            digest = self._keys.get(key)
            if digest is None:
                digest = self._keys[key] = xxhash.xxh3_128(
                    f"{key}\0{values.dtype}\0{tuple(values.shape[1:])}".encode()
                )
            digest.update(tensor_bytes(values).data)

    def hexdigest(self) -> str:
        """The digest so far, as 32 hexadecimal digits."""
        combined = xxhash.xxh3_128()
        for key in sorted(self._keys):
            combined.update(self._keys[key].digest())
        return combined.hexdigest()


def _tensors(batch: Batch) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of a batch by name; a `SparseTarget` has several."""
    for key, value in batch.items():
        if hasattr(value, "tensors"):
            for name, tensor in value.tensors().items():
                # No key holds a zero character, so this is no other key's name.
                yield f"{key}\0{name}", tensor
        else:
            yield key, value
