"""Vectors -> their encoded bytes, on the device that holds them, a chunk of positions at a time.

Extra memory: a chunk is about 16 MiB as float32 (256 MiB on a GPU), and at most two tensors of that
size live at a time, besides what a position takes once it is encoded. The bytes' layout is that of
`schemas/encoded_rows.py`. Nothing here waits for the device.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from tutelage.producers.stages.projected import Vectors
from tutelage.schemas.encoded_rows import ENTROPY_BYTES, POSITIONS_BYTES
from tutelage.schemas.encodings import Sampled, TopK

# Weights are converted to float64 for a part of a chunk at a time.
_PARTS = 4
# Ids that are added up before the search: its two steps then have a few hundred entries each.
_BLOCK = 256
# Memory for the blocks that are searched at a time.
_SEARCH_BYTES = 16 << 20
_GPU_SEARCH_BYTES = 128 << 20
_LARGEST_SCALE = torch.finfo(torch.float32).max / 127 * (1 - 2.0**-23)
# The exponential of a smaller number is 0 in float32.
_LEAST_LOGIT = -104.0


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class EncodedVectors:
    """Encoded vectors, on their device.

    Args:
        values: uint8; `[n, bytes of a vector]`. For `Sampled` `[at least the sum of lengths]`.
        lengths: For `Sampled` the bytes of each row, int64 `[rows]`; None otherwise.
        invalid: Whether a vector held a value that cannot be encoded: a bool tensor `[]`.
    """

    values: torch.Tensor
    lengths: torch.Tensor | None
    invalid: torch.Tensor


def encode_topk(vectors: Vectors, encoding: TopK, kept: torch.Tensor | None) -> EncodedVectors:
    """Encode logits as `TopK` says; `kept` are the positions to encode, int64, None for all."""
    return _encode_chunks(
        vectors, kept, 4 + 5 * encoding.k, lambda chunk, own: _topk_chunk(chunk, encoding, own=own)
    )


def encode_int8(vectors: Vectors, kept: torch.Tensor | None) -> EncodedVectors:
    """Encode vectors as `Int8` says; `kept` are those to encode, int64, None for all."""
    return _encode_chunks(vectors, kept, 4 + vectors.size, lambda chunk, own: _int8_chunk(chunk))


def encode_sampled(
    vectors: Vectors,
    encoding: Sampled,
    kept: torch.Tensor | None,
    rows: torch.Tensor,
    uniform: torch.Tensor,
) -> EncodedVectors:
    """Encode logits as `Sampled` says.

    Args:
        vectors: The logits.
        encoding: The encoding.
        kept: The positions to encode, int64 `[n]`; None for all.
        rows: How many of these positions each row has, int64 `[rows]`.
        uniform: A uniform number for each of them, float64 `[n]`.
    """
    device = vectors.device
    ids = [torch.zeros((0, encoding.draws), dtype=torch.int32, device=device)]
    entropies = [torch.zeros(0, dtype=torch.float16, device=device)]
    invalid = torch.zeros((), dtype=torch.bool, device=device)
    for start, stop in vectors.chunks(kept):
        drawn, entropy, bad = _sampled_chunk(
            *vectors.chunk(start, stop, kept), encoding, uniform[start:stop]
        )
        ids.append(drawn)
        entropies.append(entropy)
        invalid |= bad
    with _without_autocast(device):
        packed, lengths = _pack_rows(
            torch.cat(ids), torch.cat(entropies), rows, encoding, vectors.size
        )
    return EncodedVectors(values=packed, lengths=lengths, invalid=invalid)


def _encode_chunks(
    vectors: Vectors,
    kept: torch.Tensor | None,
    width: int,
    encode: Callable[[torch.Tensor, bool], tuple[torch.Tensor, torch.Tensor]],
) -> EncodedVectors:
    """Encode vectors to `width` bytes each.

    `encode` turns a chunk, and whether it may be changed, into its bytes and whether a value in it
    cannot be encoded.
    """
    pieces = [torch.zeros((0, width), dtype=torch.uint8, device=vectors.device)]
    invalid = torch.zeros((), dtype=torch.bool, device=vectors.device)
    for start, stop in vectors.chunks(kept):
        values, bad = encode(*vectors.chunk(start, stop, kept))
        pieces.append(values)
        invalid |= bad
    return EncodedVectors(values=torch.cat(pieces), lengths=None, invalid=invalid)


def _without_autocast(device: torch.device) -> torch.autocast:
    """A block whose sums are as exact as they are written, under whatever autocast the model runs."""
    return torch.autocast(device.type, enabled=False)


# Each chunk is encoded in a function of its own, whose end frees its memory.


def _topk_chunk(
    logits: torch.Tensor, encoding: TopK, *, own: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    shifted, bad = _shifted(logits, encoding.temperature, own=own)
    top = shifted.topk(encoding.k, dim=-1)
    weights = shifted.exp_()
    total = weights.sum(-1, keepdim=True)
    log_probs = top.values - total.log()
    # The rest is added up without the entries, since 1 - sum would lose it to rounding.
    rest = weights.scatter_(1, top.indices, 0.0).sum(-1, keepdim=True)
    tail = (rest / total).log()
    parts = [
        _bytes(tail),
        _low_bytes(top.indices, 3).flatten(1),
        _bytes(log_probs.clamp(max=0).half()),
    ]
    return torch.cat(parts, dim=1), bad


def _int8_chunk(vectors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    values = vectors.float()
    low, high = values.aminmax(dim=-1, keepdim=True)
    # Rounded up, the largest float32 would overflow when it is decoded.
    scale = (torch.maximum(-low, high) / 127).clamp(max=_LARGEST_SCALE)
    bad = ~torch.isfinite(torch.maximum(-low, high)).all()
    # A vector of zeros has scale 0.
    steps = torch.where(scale > 0, scale, 1.0)
    quantized = (values / steps).round_().clamp_(-127, 127).to(torch.int8)
    return torch.cat([_bytes(scale), quantized.view(torch.uint8)], dim=1), bad


def _sampled_chunk(
    logits: torch.Tensor, own: bool, encoding: Sampled, uniform: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    with _without_autocast(logits.device):
        shifted, bad = _shifted(logits, encoding.temperature, own=own)
        weights, entropy = _weights_and_entropy(shifted)
        del shifted
        drawn = draw(weights, encoding.draws, uniform)
        return drawn.to(torch.int32), entropy.half(), bad


def draw(weights: torch.Tensor, draws: int, uniform: torch.Tensor) -> torch.Tensor:
    """Draw ids systematically.

    The cumulative distribution is searched in two steps, first for a block of ids and then in it:
    on a GPU that is several times as fast as one long cumulative sum. Sums are float64; in float32
    those of a large vocabulary would lose the tail.

    Args:
        weights: Probabilities up to a factor, float32 `[positions, vocabulary]`.
        draws: How many ids to draw at each position.
        uniform: float64 `[positions]`, in [0, 1).

    Returns:
        int64 `[positions, draws]`, ascending. Draw k is the id at (k + u) / draws of the cumulative
        distribution, so id i comes floor or ceil of draws * p_i times.
    """
    vocabulary = weights.shape[1]
    block = min(_BLOCK, vocabulary)
    whole = vocabulary // block * block
    sums = [_sum_blocks(weights[:, :whole].reshape(len(weights), -1, block))]
    if whole < vocabulary:
        sums.append(_sum_blocks(weights[:, None, whole:]))
    cumulative = torch.cat(sums, dim=1).cumsum(1)
    numbers = torch.arange(draws, device=weights.device, dtype=torch.float64)
    at = (numbers + uniform[:, None]) / draws * cumulative[:, -1:]
    # Where a logit is no number, nothing is found; the caller reports it.
    blocks = torch.searchsorted(cumulative, at, right=True).clamp_(max=cumulative.shape[1] - 1)
    before = torch.nn.functional.pad(cumulative[:, :-1], (1, 0))
    rest = at - before.gather(1, blocks)
    nbytes = _SEARCH_BYTES if weights.device.type == "cpu" else _GPU_SEARCH_BYTES
    step = max(1, nbytes // (32 * draws * block))
    found = [
        _search_blocks(*part, block)
        for part in zip(
            torch.split(weights, step),
            torch.split(blocks, step),
            torch.split(rest, step),
            strict=True,
        )
    ]
    return torch.cat(found) if found else blocks


def _search_blocks(
    weights: torch.Tensor, blocks: torch.Tensor, rest: torch.Tensor, block: int
) -> torch.Tensor:
    """The ids in blocks `[positions, draws]` at which sums of weights exceed `rest`."""
    vocabulary, device = weights.shape[1], weights.device
    ids = blocks[..., None] * block + torch.arange(block, device=device)
    rows = torch.arange(len(weights), device=device)[:, None, None]
    entries = weights[rows, ids.clamp(max=vocabulary - 1)].double() * (ids < vocabulary)
    sums = entries.cumsum_(-1)
    # The block's own sum may be less by a rounding error.
    rest = torch.minimum(rest, sums[..., -1] * (1 - 2.0**-50))
    within = torch.searchsorted(sums, rest[..., None], right=True)[..., 0]
    return (blocks * block + within).clamp_(max=vocabulary - 1)


def _sum_blocks(blocks: torch.Tensor) -> torch.Tensor:
    """The sums of float32 blocks `[positions, blocks, ids]`, in float64."""
    step = max(1, -(-len(blocks) // _PARTS))
    parts = [part.double().sum(-1) for part in torch.split(blocks, step)]
    return torch.cat(parts) if parts else blocks.new_zeros(blocks.shape[:2], dtype=torch.float64)


def _shifted(
    logits: torch.Tensor, temperature: float, *, own: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Subtract each position's largest logit, and divide by the temperature.

    Returns:
        float32 `[positions, vocabulary]`: new memory, or that of `logits` if it may be changed. And
        whether the largest logit of a position is NaN or infinite.
    """
    largest = logits.amax(-1, keepdim=True)
    bad = ~torch.isfinite(largest).all()
    if logits.dtype == torch.float64:
        shifted = (logits - largest).float()
    elif own or logits.dtype != torch.float32:
        # `float` returns the same tensor if it is float32 already.
        shifted = logits.float().sub_(largest)
    else:
        shifted = logits - largest
    if temperature != 1:
        shifted.div_(temperature)
    return shifted, bad


def _weights_and_entropy(shifted: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """exp of shifted logits, and the entropy of their softmax in nats; changes its argument."""
    # -inf * 0 would be NaN.
    weights = shifted.clamp_(min=_LEAST_LOGIT).exp()
    total = weights.sum(-1)
    # A product of matrices needs no memory for the products.
    inner = torch.bmm(weights[:, None], shifted[..., None])[:, 0, 0]
    return weights, (total.log() - inner / total).clamp_(min=0)


def _pack_rows(
    ids: torch.Tensor,
    entropy: torch.Tensor,
    rows: torch.Tensor,
    encoding: Sampled,
    vocabulary: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Drawn ids `[positions, draws]` -> the bytes of all rows, and the bytes of each row.

    The bytes are written to where they belong in a buffer for the case that all draws differ, so
    that the device need not be asked how many they are.
    """
    positions, draws = ids.shape
    width, high_bits, device = encoding.change_bytes, encoding.high_bits(vocabulary), ids.device
    owners = torch.repeat_interleave(rows, output_size=positions)
    changes, distinct, entries = _entries(ids, width)
    row_entries = torch.zeros_like(rows).index_add_(0, owners, entries)
    # Where each row, and each part of it, begins.
    high_bytes = (row_entries * high_bits + 7) // 8
    position_bytes = width + ENTROPY_BYTES
    lengths = POSITIONS_BYTES + position_bytes * rows + 2 * row_entries + high_bytes
    starts = lengths.cumsum(0) - lengths
    id_starts = starts + POSITIONS_BYTES + position_bytes * rows
    # The number of each position in its row, and of its first entry among the row's.
    within = torch.arange(positions, device=device) - (rows.cumsum(0) - rows)[owners]
    before = entries.cumsum(0) - entries - (row_entries.cumsum(0) - row_entries)[owners]
    capacity = (POSITIONS_BYTES + 1) * len(rows) + (position_bytes + 3 * draws) * positions
    # One more byte, where what is no entry goes.
    out = torch.zeros(capacity + 1, dtype=torch.uint8, device=device)
    _put(out, starts, _low_bytes(rows, POSITIONS_BYTES))
    change_starts = starts[owners] + POSITIONS_BYTES
    _put(out, change_starts + width * within, changes)
    _put(
        out, change_starts + width * rows[owners] + ENTROPY_BYTES * within, _bytes(entropy[:, None])
    )
    slots = torch.arange(draws, device=device)
    is_entry, number = slots < entries[:, None], before[:, None] + slots
    at = id_starts[owners][:, None] + 2 * number
    for byte in range(2):
        places = torch.where(is_entry, at + byte, capacity)
        out[places.reshape(-1)] = (distinct >> 8 * byte & 255).to(torch.uint8).reshape(-1)
    if high_bits:
        high_starts = (id_starts + 2 * row_entries)[owners][:, None]
        places = torch.where(is_entry, high_starts + number * high_bits // 8, capacity)
        parts = (distinct >> 16) << (number * high_bits % 8)
        # Several entries share a byte, each with bits of its own.
        out.scatter_add_(0, places.reshape(-1), parts.to(torch.uint8).reshape(-1))
    return out[:capacity], lengths


def _entries(
    ids: torch.Tensor, change_bytes: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ascending draws `[positions, draws]` -> their entries.

    Returns:
        The bits that say which draws differ from the one before, uint8 `[positions, bytes]`; the
        distinct ids, int64 `[positions, draws]`, with 0 behind the last; and how many there are.
    """
    positions, draws = ids.shape
    changes = ids[:, 1:] != ids[:, :-1]
    bits = torch.zeros((positions, 8 * change_bytes), dtype=torch.uint8, device=ids.device)
    bits[:, : draws - 1] = changes
    powers = 2 ** torch.arange(8, device=ids.device)
    packed = (bits.view(positions, change_bytes, 8) * powers).sum(-1).to(torch.uint8)
    slots = torch.zeros((positions, draws), dtype=torch.int64, device=ids.device)
    slots[:, 1:] = changes.cumsum(1)
    distinct = torch.zeros_like(slots).scatter_(1, slots, ids.long())
    return packed, distinct, slots[:, -1] + 1


def _put(out: torch.Tensor, starts: torch.Tensor, values: torch.Tensor) -> None:
    """Write bytes `[n, width]` to places of a buffer."""
    places = starts[:, None] + torch.arange(values.shape[1], device=out.device)
    out[places.reshape(-1)] = values.reshape(-1)


def _low_bytes(numbers: torch.Tensor, count: int) -> torch.Tensor:
    """The lowest bytes of int64 numbers, little-endian: uint8 `[..., count]`."""
    shifts = 8 * torch.arange(count, device=numbers.device)
    return (numbers[..., None] >> shifts & 255).to(torch.uint8)


def _bytes(values: torch.Tensor) -> torch.Tensor:
    """The bytes of a tensor's last dimension."""
    return values.contiguous().view(torch.uint8)
