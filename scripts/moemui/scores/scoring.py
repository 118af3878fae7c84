"""One forward pass turned into scores: formulations, ranks, routing and the conservation check, layer by layer.

What the tap sees of a layer is worked through in pieces that fit a CPU's cache; arithmetic is in float32 (a product
with W_down accumulates in float32 and is rounded once to the weights' type). The scores of one layer are kept until it
is ranked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from moemui.scores import ranking
from moemui.scores.chunk_scores import ChunkScores
from moemui.scores.ranking import Slots
from moemui.tap.experts_forward import SPAN_SLOTS, RoutedPass
from moemui.tap.families import Site
from moemui.tap.layer_pass import LayerPass, Pulled, SharedPass

RANKINGS = {"pairs": ranking.rank_pairs, "neurons": ranking.rank_neurons}


class ConservationError(RuntimeError):
    """Contributions do not add up to the layer's output: a part of it was not seen, so no number is given."""


@dataclass(frozen=True)
class Rows:
    """The response tokens of a batch, one row each, for the layers of one device and dtype.

    sample, token, position: int64 (rows,), the sample's number in the batch, the token's in its response, and the place
    of the state scored in the flattened batch.
    row_of: int64 (tokens,), the row of every position of the flattened batch, −1 for the others.
    head: W_head[y_t], (rows, H). vectors: the same at every position, (tokens, H), 0 where nothing is scored.
    """

    sample: torch.Tensor
    token: torch.Tensor
    position: torch.Tensor
    row_of: torch.Tensor
    head: torch.Tensor
    vectors: torch.Tensor

    def to(self, device: torch.device, dtype: torch.dtype) -> Rows:
        """The rows for another device, with head and vectors in another dtype."""
        return Rows(
            self.sample.to(device),
            self.token.to(device),
            self.position.to(device),
            self.row_of.to(device),
            self.head.to(device, dtype),
            self.vectors.to(device, dtype),
        )


def rows(lengths: list[int], starts: list[int], positions: int, head: torch.Tensor) -> Rows:
    """lengths: response tokens of each sample; starts: in the flattened batch, the state scored for its first token;
    positions: of the flattened batch; head: (Σ lengths, H), W_head of all response tokens.
    """
    device = head.device
    counts = torch.tensor(lengths, device=device)
    sample = torch.repeat_interleave(torch.arange(len(lengths), device=device), counts)
    token = torch.cat([torch.arange(length, device=device) for length in lengths])
    position = torch.tensor(starts, device=device)[sample] + token
    row_of = torch.full((positions,), -1, device=device)
    row_of[position] = torch.arange(len(position), device=device)
    vectors = head.new_zeros(positions, head.shape[1])
    # A row of zeros tells nothing about what its layer multiplies it with; any other vector does.
    vectors[position] = torch.where((head == 0).all(1, keepdim=True), 1, head)
    return Rows(sample, token, position, row_of, head, vectors)


@dataclass(frozen=True)
class _Piece:
    """Some slots of a layer, in float32.

    row, expert (of the layer), first (its neuron 0): int64 (slots,); weight: G, (slots,); activation, intermediate and
    pull (W_down · vector): (slots, N); bias: b_down · vector, (slots,), None without a bias.
    """

    row: torch.Tensor
    expert: torch.Tensor
    first: torch.Tensor
    weight: torch.Tensor
    activation: torch.Tensor
    intermediate: torch.Tensor
    pull: torch.Tensor
    bias: torch.Tensor | None


class BatchScores:
    """Fills the scores of a batch's samples while its forward pass runs; pass `observe` to the tap.

    scores: empty, with the settings wanted. ranks: entries to rank. gate_weighting: whether scores hold G. tolerance:
    the largest imbalance that passes.
    """

    def __init__(
        self, sites: list[Site], at: Rows, scores: ChunkScores, *, ranks: int, gate_weighting: bool, tolerance: float
    ):
        self.ranks = ranks
        self.sites, self.scores, self.gate_weighting, self.tolerance = sites, scores, gate_weighting, tolerance
        self.samples = len(scores.response_tokens)
        self.formulations = list(dict.fromkeys([f for f, _ in scores.ranked] + list(scores.per_token)))
        self._at, self._rows = at, {(at.head.device, at.head.dtype): at}
        self._observed = [False] * len(sites)
        self._per_token: dict[str, list[np.ndarray]] = {formulation: [] for formulation in scores.per_token}

    def finished(self) -> ChunkScores:
        """The scores; RuntimeError where a layer was not observed."""
        missing = [site.name for site, observed in zip(self.sites, self._observed, strict=True) if not observed]
        if missing:
            raise RuntimeError(
                f"the forward pass went by {', '.join(missing[:4])}, {len(missing)} of {len(self.sites)} layers, so "
                "their neurons were not seen; this model can't be measured"
            )
        for formulation, layers in self._per_token.items():
            # Each is (4, entries): sample, layer, rank, neuron.
            found = np.concatenate([np.empty((4, 0), dtype=np.int64), *layers], axis=1)
            sample, layer, rank, neuron = found[:, np.lexsort(found[::-1])].astype(np.int32)
            count = np.zeros((self.samples, len(self.sites)), dtype=np.int32)
            np.add.at(count, (sample, layer), 1)
            self.scores.per_token[formulation] = neuron, rank, count
        return self.scores

    def observe(self, position: int, passed: LayerPass) -> None:
        """Score, rank and check one layer; raises ConservationError."""
        if self._observed[position]:
            raise RuntimeError(
                f"{self.sites[position].name} ran twice in one forward pass, so its neurons have two scores a token; "
                "this model can't be measured"
            )
        self._observed[position] = True
        at = self._rows_for(passed.output)
        head = at.head.float()
        product = passed.output[at.position].float() * head
        expected = product.sum(1)
        total, magnitude, square = (torch.zeros_like(expected) for _ in range(3))
        groups: dict[str, list[Slots]] = {formulation: [] for formulation in self.formulations}
        counted = []
        pulled = passed.pull(at.vectors)
        if pulled.bias is not None:
            expected = expected - pulled.bias[at.position] * (head != 0).any(1)
        for piece in self._pieces(position, passed, pulled, at):
            scores, exact = self._formulations(piece)
            # Where `exact` lacks the weight G, its sums get it.
            weight = torch.ones_like(piece.weight) if self.gate_weighting else piece.weight
            total.index_add_(0, piece.row, weight * exact.sum(1))
            magnitude.index_add_(0, piece.row, weight.abs() * torch.linalg.vector_norm(exact, 1, dim=1))
            square.index_add_(0, piece.row, (weight * torch.linalg.vector_norm(exact, dim=1)).square())
            if piece.bias is not None:
                expected.index_add_(0, piece.row, -piece.weight * piece.bias)
            sample, token = at.sample[piece.row], at.token[piece.row]
            for formulation, values in scores.items():
                groups[formulation].append(Slots(values, values.amax(1), sample, token, piece.first))
            counted.append((sample, piece.expert, piece.weight))
        difference = (total - expected).abs()
        self._keep_largest(self.scores.conservation, position, at, difference / magnitude.clamp_min(1e-30))
        scale = square.sqrt() + product.square().sum(1).sqrt() + expected.abs()
        self._check(position, at, difference / scale.clamp_min(1e-30))
        if counted:  # a router may give every token of the batch the weight 0
            self._count(position, counted)
            self._rank(position, groups)

    def _rows_for(self, output: torch.Tensor) -> Rows:
        """The scored rows as a layer needs them; layers of one model may lie on several devices."""
        key = output.device, output.dtype
        if key not in self._rows:
            self._rows[key] = self._at.to(*key)
        return self._rows[key]

    def _pieces(self, position: int, passed: LayerPass, pulled: Pulled, at: Rows) -> Iterator[_Piece]:
        if passed.routed is not None:
            yield from self._routed(position, passed.routed, _through(pulled.routed, "routed" in pulled.mixed, at), at)
        if passed.shared is not None:
            yield from self._shared(position, passed.shared, _through(pulled.shared, "shared" in pulled.mixed, at), at)

    def _routed(self, position: int, spans: RoutedPass, through: _Through, at: Rows) -> Iterator[_Piece]:
        for span in spans:
            row, weight, vector = at.row_of[span.token], span.weight, through.vectors[at.row_of[span.token]]
            if through.scale is not None:
                weight = weight * through.scale[row]
            if span.norm is not None:
                vector = (vector * span.norm).to(vector.dtype)
            bias = span.down.bias(span.expert)
            yield _Piece(
                row,
                span.expert,
                span.expert * self.sites[position].layer.width,
                weight,
                span.activation.float(),
                span.intermediate.float(),
                span.down.pull(vector, span.expert).float(),
                None if bias is None else (bias.float() * vector.float()).sum(1),
            )

    def _shared(self, position: int, shared: SharedPass, through: _Through, at: Rows) -> Iterator[_Piece]:
        layer, down = self.sites[position].layer, shared.down
        number = torch.arange(layer.shared, device=at.position.device)
        rows = len(at.position)
        step = rows if down.device.type != "cpu" else max(1, SPAN_SLOTS // layer.shared)
        for start in range(0, rows, step):
            part = slice(start, min(start + step, rows))  # what is wanted comes in the order of the rows
            row, vector = torch.arange(part.start, part.stop, device=number.device), through.vectors[part]
            weight = torch.ones(len(row), layer.shared, dtype=torch.float32, device=row.device)
            if shared.weight is not None:
                weight = shared.weight[part].float()
            if through.scale is not None:
                weight = weight * through.scale[part][:, None]
            slots = (len(row) * layer.shared, layer.shared_width)
            bias = None if shared.bias is None else (shared.bias.float() * vector.float()).sum(1)
            if bias is not None:  # one bias for all: the first expert carries it
                bias = torch.nn.functional.pad(bias[:, None], (0, layer.shared - 1)).reshape(-1)
            yield _Piece(
                row.repeat_interleave(layer.shared),
                layer.routed + number.repeat(len(row)),
                layer.routed * layer.width + number.repeat(len(row)) * layer.shared_width,
                weight.reshape(-1),
                shared.activation[part].float().reshape(slots),
                shared.intermediate[part].float().reshape(slots),
                (vector @ down.T).float().reshape(slots),
                bias,
            )

    def _formulations(self, piece: _Piece) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Scores by formulation, and the exact contributions, with G where gate weighting is on: float32 (slots, N)."""
        pull = piece.pull
        if self.gate_weighting:
            pull = pull.mul_(piece.weight[:, None])
        exact = piece.intermediate * pull
        compute: dict[str, Callable[[], torch.Tensor]] = {
            "glu": lambda: exact,
            "activation": lambda: piece.activation,
            "projection": lambda: pull.mul_(piece.activation),  # last use of pull
        }
        return {name: compute[name]() for name in self.formulations}, exact

    def _count(self, position: int, counted: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]) -> None:
        sample, expert, weight = (torch.cat(values) for values in zip(*counted, strict=True))
        experts = self.scores.routed_tokens.shape[2]
        cell, cells = sample * experts + expert, self.samples * experts
        tokens = torch.bincount(cell, minlength=cells).view(-1, experts)
        mass = torch.bincount(cell, weights=weight.double(), minlength=cells).view(-1, experts)
        self.scores.routed_tokens[:, position] = tokens.cpu().numpy()
        self.scores.gate_mass[:, position] = mass.cpu().numpy()

    def _keep_largest(self, array: np.ndarray, position: int, at: Rows, values: torch.Tensor) -> None:
        worst = values.new_full((self.samples,), -torch.inf)
        array[:, position] = worst.scatter_reduce_(0, at.sample, values, "amax").cpu().numpy()

    def _check(self, position: int, at: Rows, imbalance: torch.Tensor) -> None:
        """Refuse a layer whose contributions miss its output by more than rounding explains.

        The difference is measured against what rounding can make of it, sqrt(Σ f²) + sqrt(Σ_h (MoE_h · head_h)²) +
        |MoE · head|, and not against Σ|f|, to which a whole expert is small when thousands of neurons cancel out.
        """
        self._keep_largest(self.scores.imbalance, position, at, imbalance)
        largest = float(imbalance.max())
        if not largest <= self.tolerance:  # NaN fails too
            site = self.sites[position]
            raise ConservationError(
                f"{site.name} ({type(site.roots[0]).__name__}): contributions miss the layer's output by {largest:.2g} "
                f"of their size, above the tolerance {self.tolerance:g}; its output is not the weighted sum of the "
                "experts seen, or weights are not finite, so this model can't be measured"
            )

    def _rank(self, position: int, groups: dict[str, list[Slots]]) -> None:
        # All formulations at once, as if they were samples of their own.
        count, names = self.samples, list(groups)
        together = [
            replace(group, sample=number * count + group.sample)
            for number, name in enumerate(names)
            for group in groups[name]
        ]
        for selection in {selection for _, selection in self.scores.ranked}:
            entries = RANKINGS[selection](together, len(names) * count, self.ranks)
            arrays = ranking.to_arrays(entries, len(names) * count, self.ranks)
            for number, name in enumerate(names):
                part = slice(number * count, (number + 1) * count)
                for array, values in zip(self.scores.ranked[name, selection], arrays, strict=True):
                    array[:, position] = values[part].numpy()
        for name, found in self._per_token.items():
            sample, neuron, rank = ranking.rank_per_token(groups[name], count, self.ranks)
            entries_of_layer = torch.stack([sample, torch.full_like(sample, position), rank, neuron])
            found.append(entries_of_layer.cpu().numpy())


@dataclass(frozen=True)
class _Through:
    """Vectors to score with, (rows, H_e), and the factor that what lies after the experts has in G, float32 (rows,)."""

    vectors: torch.Tensor
    scale: torch.Tensor | None


def _through(pulled: torch.Tensor, mixed: bool, at: Rows) -> _Through:
    """What only scales belongs to G (None where it is 1); norms and linear maps belong to the vectors."""
    if pulled.data_ptr() == at.vectors.data_ptr():
        return _Through(at.head, None)
    there, given = pulled[at.position], at.vectors[at.position]
    if mixed:
        return _Through(there * (at.head != 0).any(1, keepdim=True), None)
    a, b = there.float(), given.float()
    return _Through(at.head, (a * b).sum(1) / b.square().sum(1))
