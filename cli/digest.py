"""One number for what reached the student: equal digests mean equal batches, bit for bit and in order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import xxhash

if TYPE_CHECKING:
    import torch


class Digest:
    """xxh3-128 of every key's rows in order; for dense keys it does not depend on the batch size."""

    def __init__(self) -> None:
        self._keys: dict[str, xxhash.xxh3_128] = {}

    def add(self, batch: dict[str, torch.Tensor]) -> None:
        """Take a batch in."""
        from tutelage.consumers.stages.torch_view import tensor_bytes

        for key, values in batch.items():
            digest = self._keys.get(key)
            if digest is None:
                digest = self._keys[key] = xxhash.xxh3_128(
                    f"{key}\0{values.dtype}\0{tuple(values.shape[1:])}".encode()
                )
            digest.update(tensor_bytes(values).data)

    def hexdigest(self) -> str:
        """The digest so far, as 32 hexadecimal digits."""
        whole = xxhash.xxh3_128()
        for key in sorted(self._keys):
            whole.update(self._keys[key].digest())
        return whole.hexdigest()
