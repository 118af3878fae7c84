"""The highest neuron scores of every sample, exactly and reproducibly (SPEC section 3).

Scores arrive as slots: one row of N neuron scores for each (response token, expert) pair that the
model really used. Order of the result: higher score first, then lower token, then lower neuron.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Slots:
    """Neuron scores of the experts that response tokens used.

    scores: float32 (slots, N); sample, token, first: int64 (slots,), with `sample` the number of the
    sample in its batch, `token` of the response token in its sample, and `first` the index inside the
    layer of the expert's neuron 0.
    """

    scores: torch.Tensor
    sample: torch.Tensor
    token: torch.Tensor
    first: torch.Tensor


@dataclass(frozen=True)
class Entries:
    """Ranked entries, any number a sample: int64 (entries,) each, float32 `score`."""

    sample: torch.Tensor
    neuron: torch.Tensor
    token: torch.Tensor
    score: torch.Tensor


def rank_pairs(groups: list[Slots], samples: int, ranks: int) -> Entries:
    """Selection `pairs`: each sample's `ranks` highest (token, neuron) scores pooled over its response."""
    return _merge([_highest(group, samples, ranks) for group in groups], samples, ranks)


def rank_neurons(groups: list[Slots], samples: int, ranks: int) -> Entries:
    """Selection `neurons`: each sample's `ranks` neurons of the highest score over its tokens.

    A neuron's token is the first that reaches its maximum.
    """
    return _merge([_highest_over_tokens(group, samples, ranks) for group in groups], samples, ranks)


def to_arrays(entries: Entries, samples: int, ranks: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Neuron and token as int32, score as float32, each (samples, ranks); −1, −1 and 0 past a sample's last entry."""
    position = _position(entries.sample, samples)
    neuron = torch.full((samples, ranks), -1, dtype=torch.int32)
    token = torch.full((samples, ranks), -1, dtype=torch.int32)
    score = torch.zeros((samples, ranks), dtype=torch.float32)
    where = (entries.sample.cpu(), position.cpu())
    neuron[where] = entries.neuron.to("cpu", torch.int32)
    token[where] = entries.token.to("cpu", torch.int32)
    score[where] = entries.score.cpu()
    return neuron, token, score


def _highest(slots: Slots, samples: int, ranks: int) -> Entries:
    """A superset-free selection: at least the `ranks` highest entries of each sample, and those tied with the last."""
    rows, width = slots.scores.shape
    if rows == 0 or width == 0:
        return _none(slots.scores.device)
    # With `ranks` slots in a sample, the ranks-th highest slot maximum is reached by at least `ranks` entries, so
    # no slot whose own maximum lies below it can hold one of them: an exact bound that spares most of the sorting.
    highest = slots.scores.amax(1)
    bound = _kth(highest[:, None], slots.sample, samples, ranks)
    kept = (highest >= bound[slots.sample]).nonzero()[:, 0]
    scores, sample = slots.scores[kept], slots.sample[kept]
    bound = _kth(scores, sample, samples, ranks)
    row, column = (scores >= bound[sample][:, None]).nonzero(as_tuple=True)
    return Entries(sample[row], slots.first[kept[row]] + column, slots.token[kept[row]], scores[row, column])


def _highest_over_tokens(slots: Slots, samples: int, ranks: int) -> Entries:
    rows, width = slots.scores.shape
    if rows == 0 or width == 0:
        return _none(slots.scores.device)
    expert_stride = int(slots.first.max()) + 1
    keys, segment = torch.unique(slots.sample * expert_stride + slots.first, return_inverse=True)
    highest = slots.scores.new_full((len(keys), width), -torch.inf)
    highest.scatter_reduce_(0, segment[:, None].expand(-1, width), slots.scores, "amax")
    segment_ids = torch.arange(len(keys), device=keys.device)
    reduced = Slots(highest, keys // expert_stride, segment_ids, keys % expert_stride)
    entries = _highest(reduced, samples, ranks)
    token = _first_token(slots, segment, entries.token, entries.neuron - reduced.first[entries.token], entries.score)
    return Entries(entries.sample, entries.neuron, token, entries.score)


def _first_token(
    slots: Slots, segment: torch.Tensor, wanted: torch.Tensor, column: torch.Tensor, score: torch.Tensor
) -> torch.Tensor:
    """The lowest token of segment wanted[i] whose score in column[i] is score[i]."""
    order = torch.argsort(segment, stable=True)
    counts = torch.bincount(segment)
    starts = torch.cumsum(counts, 0) - counts
    lengths = counts[wanted]
    entry = torch.repeat_interleave(torch.arange(len(wanted), device=wanted.device), lengths)
    offset = torch.arange(len(entry), device=entry.device) - (torch.cumsum(lengths, 0) - lengths)[entry]
    slot = order[starts[wanted][entry] + offset]
    token = torch.where(
        slots.scores[slot, column[entry]] == score[entry], slots.token[slot], torch.iinfo(torch.int64).max
    )
    first = torch.full((len(wanted),), torch.iinfo(torch.int64).max, device=wanted.device)
    return first.scatter_reduce_(0, entry, token, "amin")


def _kth(scores: torch.Tensor, sample: torch.Tensor, samples: int, ranks: int) -> torch.Tensor:
    """The ranks-th highest score of each sample; −inf where it has fewer: float32 (samples,)."""
    position = _position(sample, samples)
    padded = scores.new_full((samples, int(position.max()) + 1, scores.shape[1]), -torch.inf)
    padded[sample, position] = scores
    flat = padded.reshape(samples, -1)
    if flat.shape[1] < ranks:
        return scores.new_full((samples,), -torch.inf)
    return flat.topk(ranks, dim=1, sorted=True).values[:, -1]


def _merge(parts: list[Entries], samples: int, ranks: int) -> Entries:
    sample, neuron, token, score = (
        torch.cat([getattr(part, name) for part in parts]) for name in ("sample", "neuron", "token", "score")
    )
    order = torch.argsort(neuron, stable=True)
    for key in (token, -score, sample):
        order = order[torch.argsort(key[order], stable=True)]
    kept = order[_position(sample[order], samples) < ranks]
    return Entries(sample[kept], neuron[kept], token[kept], score[kept])


def _position(sample: torch.Tensor, samples: int) -> torch.Tensor:
    """Running number of every row among the rows of its sample, in the order given: int64 (rows,)."""
    order = torch.argsort(sample, stable=True)
    counts = torch.bincount(sample, minlength=samples)
    starts = torch.cumsum(counts, 0) - counts
    position = torch.empty_like(sample)
    position[order] = torch.arange(len(sample), device=sample.device) - starts[sample[order]]
    return position


def _none(device: torch.device) -> Entries:
    index = torch.empty(0, dtype=torch.int64, device=device)
    return Entries(index, index, index, torch.empty(0, device=device))
