"""The highest neuron scores of every sample, exactly and reproducibly (SPEC section 3).

Scores arrive as slots: one row of N neuron scores for each (response token, expert) pair that the model really used.
Order of the result: higher score first, then lower token, then lower neuron.

Sorting all scores would cost more than the forward pass that made them. Bounds, exact ones, spare nearly all of it: no
row whose own maximum lies below the K-th highest row maximum of its sample holds one of its K highest entries, and no
entry below the K-th highest of those left is one. A neuron's maximum over some rows is no higher than over all, so the
K-th highest of such maxima bounds the K-th neuron.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch

BEST_ROWS = 4  # of an expert in a sample, for the bound on neurons: one is looser, more cost more than they spare


@dataclass(frozen=True)
class Slots:
    """Neuron scores of the experts that response tokens used.

    scores: float32 (slots, N); highest: float32 (slots,), each row's maximum; sample, token, first: int64 (slots,),
    with `sample` the number of the sample in its batch, `token` of the response token in its sample, and `first` the
    index inside the layer of the expert's neuron 0.
    """

    scores: torch.Tensor
    highest: torch.Tensor
    sample: torch.Tensor
    token: torch.Tensor
    first: torch.Tensor


@dataclass(frozen=True)
class Entries:
    """Scores of single (token, neuron) pairs: int64 (entries,) each, float32 `score`."""

    sample: torch.Tensor
    neuron: torch.Tensor
    token: torch.Tensor
    score: torch.Tensor

    def at(self, index: torch.Tensor) -> Entries:
        """The entries of these numbers, in their order."""
        return Entries(self.sample[index], self.neuron[index], self.token[index], self.score[index])


def rank_pairs(groups: Sequence[Slots], samples: int, ranks: int) -> Entries:
    """Selection `pairs`: each sample's `ranks` highest (token, neuron) scores pooled over its response."""
    sample = torch.cat([group.sample for group in groups])
    highest = torch.cat([group.highest for group in groups])
    rows = _by_width(_rows_at_least(groups, _kth(highest[:, None], sample, samples, ranks)))
    # Of few rows many entries are left, and sorting costs more than finding the K-th highest of each width.
    return _best(_at_least(rows, _entry_bound(rows, samples, ranks)), samples, ranks)


def rank_neurons(groups: Sequence[Slots], samples: int, ranks: int) -> Entries:
    """Selection `neurons`: each sample's `ranks` neurons of the highest score over its tokens.

    A neuron's token is the first that reaches its maximum.
    """
    # An expert's slots may lie in several groups; its neurons must count once, so the groups' maxima are joined first.
    maxima = [_maxima(part) for part in _by_width([_maxima(group) for group in groups])]
    bound = _entry_bound(maxima, samples, ranks)
    entries = _at_least(groups, bound)
    # A neuron's best entry first, and of equal ones the first token.
    ordered = _sorted(entries, (entries.token, -entries.score, entries.neuron, entries.sample))
    return _best(ordered.at(_first_of_each(ordered.sample, ordered.neuron)), samples, ranks)


def rank_per_token(
    groups: Sequence[Slots], samples: int, ranks: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Selection `per_token`: the neurons among the `ranks` highest of any token, with their best rank over tokens.

    Returns sample, neuron and rank (from 0), int64 (entries,), by sample, then rank, then neuron.
    """
    tokens = 1 + max((int(group.token.max()) for group in groups if len(group.token)), default=0)
    # The K highest of each token: the same selection with every token as a sample of its own. A token has few slots,
    # so their maxima bound nothing; all their scores do.
    alone = [replace(g, sample=g.sample * tokens + g.token, token=torch.zeros_like(g.token)) for g in groups]
    bound = _entry_bound(_by_width(alone), samples * tokens, ranks)
    best = _best(_at_least(alone, bound), samples * tokens, ranks)
    rank = _position(best.sample, samples * tokens)
    sample, neuron = best.sample // tokens, best.neuron
    order = _order((rank, neuron, sample))
    kept = order[_first_of_each(sample[order], neuron[order])]
    kept = kept[_order((neuron[kept], rank[kept], sample[kept]))]
    return sample[kept], neuron[kept], rank[kept]


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


def _rows_at_least(groups: Sequence[Slots], bound: torch.Tensor) -> list[Slots]:
    """The rows whose maximum reaches their sample's bound (float32, (samples,))."""
    kept = [(group.highest >= bound[group.sample]).nonzero()[:, 0] for group in groups]
    return [
        Slots(*(getattr(group, field.name)[index] for field in fields(Slots)))
        for group, index in zip(groups, kept, strict=True)
    ]


def _at_least(groups: Sequence[Slots], bound: torch.Tensor) -> Entries:
    """All entries that reach their sample's bound (float32, (samples,))."""
    parts = []
    for group in _rows_at_least(groups, bound):
        row, column = (group.scores >= bound[group.sample][:, None]).nonzero(as_tuple=True)
        scores = group.scores[row, column]
        parts.append((group.sample[row], group.first[row] + column, group.token[row], scores))
    return Entries(*(torch.cat(values) for values in zip(*parts, strict=True)))


def _maxima(group: Slots) -> Slots:
    """One row for every (sample, expert): its neurons' maxima over the expert's best rows. Its tokens mean nothing."""
    stride = int(group.first.max()) + 1 if len(group.first) else 1
    keys, segment = torch.unique(group.sample * stride + group.first, return_inverse=True)
    order = _order((-group.highest, segment))
    place = _position(segment[order], len(keys))
    kept, place = order[place < BEST_ROWS], place[place < BEST_ROWS]
    best = group.scores.new_full((len(keys), BEST_ROWS, group.scores.shape[1]), -torch.inf)
    best[segment[kept], place] = group.scores[kept]
    scores = best.amax(1)
    return Slots(scores, scores.amax(1), keys // stride, torch.zeros_like(keys), keys % stride)


def _by_width(groups: Sequence[Slots]) -> list[Slots]:
    """The groups joined, one for each number of neurons."""
    widths: dict[int, list[Slots]] = {}
    for group in groups:
        widths.setdefault(group.scores.shape[1], []).append(group)
    return [
        Slots(*(torch.cat([getattr(group, field.name) for group in same]) for field in fields(Slots)))
        for same in widths.values()
    ]


def _entry_bound(groups: Sequence[Slots], samples: int, ranks: int) -> torch.Tensor:
    """A score that at least `ranks` entries of a sample reach, or −inf: float32 (samples,)."""
    return torch.stack([_kth(group.scores, group.sample, samples, ranks) for group in groups]).amax(0)


def _kth(scores: torch.Tensor, sample: torch.Tensor, samples: int, ranks: int) -> torch.Tensor:
    """The ranks-th highest score of each sample; −inf where it has fewer: float32 (samples,)."""
    width = scores.shape[1]
    if not len(sample) or not width:
        return scores.new_full((samples,), -torch.inf)
    position = _position(sample, samples)
    longest = int(position.max()) + 1
    if longest * width < ranks:
        return scores.new_full((samples,), -torch.inf)
    padded = scores.new_full((samples, longest, width), -torch.inf)
    padded[sample, position] = scores
    return padded.view(samples, -1).topk(ranks, dim=1, sorted=True).values[:, -1]


def _best(entries: Entries, samples: int, ranks: int) -> Entries:
    """Each sample's first `ranks` entries in the order of the result."""
    ordered = _sorted(entries, (entries.neuron, entries.token, -entries.score, entries.sample))
    return ordered.at((_position(ordered.sample, samples) < ranks).nonzero()[:, 0])


def _first_of_each(sample: torch.Tensor, neuron: torch.Tensor) -> torch.Tensor:
    """Where each (sample, neuron) stands first, equal ones standing together: int64."""
    first = torch.ones(len(sample), dtype=torch.bool, device=sample.device)
    first[1:] = (neuron[1:] != neuron[:-1]) | (sample[1:] != sample[:-1])
    return first.nonzero()[:, 0]


def _sorted(entries: Entries, keys: Sequence[torch.Tensor]) -> Entries:
    return entries.at(_order(keys))


def _order(keys: Sequence[torch.Tensor]) -> torch.Tensor:
    """The order by keys, the last one first in importance: int64."""
    order = torch.argsort(keys[0], stable=True)
    for key in keys[1:]:
        order = order[torch.argsort(key[order], stable=True)]
    return order


def _position(sample: torch.Tensor, samples: int) -> torch.Tensor:
    """Running number of every row among the rows of its sample, in the order given: int64 (rows,)."""
    order = torch.argsort(sample, stable=True)
    counts = torch.bincount(sample, minlength=samples)
    starts = torch.cumsum(counts, 0) - counts
    position = torch.empty_like(sample)
    position[order] = torch.arange(len(sample), device=sample.device) - starts[sample[order]]
    return position
