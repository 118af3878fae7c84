"""One forward pass turned into scores: formulations, ranks, routing and the conservation check, layer by layer.

What the tap sees of a layer is worked through in pieces that fit a CPU's cache; arithmetic is in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields

import numpy as np
import torch

from moemui import ranking
from moemui.chunk_scores import ChunkScores
from moemui.experts_forward import SPAN_SLOTS, RoutedPass
from moemui.families import Site
from moemui.layer_pass import LayerPass, Pulled, SharedPass
from moemui.ranking import Slots

HOME = torch.device("cpu")  # where a batch's rows are made
SELECTIONS = {"pairs": ranking.rank_pairs, "neurons": ranking.rank_neurons}


class ConservationError(RuntimeError):
    """Contributions do not add up to the layer's output: a part of it was not seen, so no number is given."""


@dataclass(frozen=True)
class Rows:
    """The response tokens of a batch, one row each, on one device: int64 (rows,) but for the last two.

    sample: its number in the batch; token: from 0 in its response; position: the state scored, in the flattened batch.
    row_of: int64 (tokens,), the row of every position of the flattened batch, −1 for the others.
    head: W_head[y_t], (rows, H). vectors: the same at every position, (tokens, H), 0 where nothing is scored.
    """

    sample: torch.Tensor
    token: torch.Tensor
    position: torch.Tensor
    row_of: torch.Tensor
    head: torch.Tensor
    vectors: torch.Tensor

    def to(self, device: torch.device) -> Rows:
        """The rows on another device."""
        return Rows(*(getattr(self, field.name).to(device) for field in fields(Rows)))


def rows(lengths: list[int], starts: list[int], positions: int, head: torch.Tensor) -> Rows:
    """lengths: response tokens of each sample; starts: in the flattened batch, the state scored for its first token;
    positions: of the flattened batch; head: (Σ lengths, H), W_head of all response tokens.
    """
    counts = torch.tensor(lengths)
    sample = torch.repeat_interleave(torch.arange(len(lengths)), counts)
    token = torch.cat([torch.arange(length) for length in lengths])
    position = torch.tensor(starts)[sample] + token
    row_of = torch.full((positions,), -1)
    row_of[position] = torch.arange(len(position))
    vectors = head.new_zeros(positions, head.shape[1])
    # A row of zeros tells nothing about what its layer multiplies it with; any other vector does.
    vectors[position.to(head.device)] = torch.where((head == 0).all(1, keepdim=True), 1, head)
    return Rows(sample, token, position, row_of, head.to(HOME), vectors.to(HOME))


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
        self._rows = {HOME: at}
        self._per_token: dict[str, list[np.ndarray]] = {formulation: [] for formulation in scores.per_token}

    def finished(self) -> ChunkScores:
        """The scores, when all layers have been observed."""
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
        at = self._rows_on(passed.output.device)
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
        self._count(position, counted)
        for formulation, parts in groups.items():
            self._rank(position, formulation, parts)

    def _rows_on(self, device: torch.device) -> Rows:
        """The scored rows on a layer's device; layers of one model may lie on several."""
        if device not in self._rows:
            self._rows[device] = self._rows[HOME].to(device)
        return self._rows[device]

    def _pieces(self, position: int, passed: LayerPass, pulled: Pulled, at: Rows) -> Iterator[_Piece]:
        if passed.routed is not None:
            yield from self._routed(position, passed.routed, pulled.routed, at)
        if passed.shared is not None:
            yield from self._shared(position, passed.shared, pulled.shared, at)

    def _routed(self, position: int, spans: RoutedPass, pulled: torch.Tensor, at: Rows) -> Iterator[_Piece]:
        vectors, scale = _through(pulled, at)
        for span in spans:
            row, weight = at.row_of[span.token], span.weight
            used = (row >= 0) & (weight != 0)
            expert, activation, intermediate, norm = span.expert, span.activation, span.intermediate, span.norm
            if not used.all():
                kept = used.nonzero()[:, 0]
                row, weight, expert = row[kept], weight[kept], expert[kept]
                activation, intermediate = activation[kept], intermediate[kept]
                norm = None if norm is None else norm[kept]
            if not len(row):
                continue
            if scale is not None:
                weight = weight * scale[row]
            vector = vectors[row]
            if norm is not None:
                vector = (vector * norm).to(vector.dtype)
            bias = span.down.bias(expert)
            yield _Piece(
                row,
                expert,
                expert * self.sites[position].layer.width,
                weight,
                activation.float(),
                intermediate.float(),
                span.down.pull(vector, expert).float(),
                None if bias is None else (bias.float() * vector.float()).sum(1),
            )

    def _shared(self, position: int, shared: SharedPass, pulled: torch.Tensor, at: Rows) -> Iterator[_Piece]:
        vectors, scale = _through(pulled, at)
        layer, down = self.sites[position].layer, shared.down
        number = torch.arange(layer.shared, device=at.position.device)
        step = len(at.position) if down.device.type != "cpu" else max(1, SPAN_SLOTS // layer.shared)
        for start in range(0, len(at.position), step):
            row = torch.arange(start, min(start + step, len(at.position)), device=number.device)
            where, vector = at.position[row], vectors[row]
            weight = torch.ones(len(row), layer.shared, device=row.device)
            if shared.weight is not None:
                weight = shared.weight[where].float()
            if scale is not None:
                weight = weight * scale[row][:, None]
            slots = (len(row) * layer.shared, layer.shared_width)
            bias = None if shared.bias is None else (shared.bias.float() * vector.float()).sum(1)
            if bias is not None:  # one bias for all: the first expert carries it
                bias = torch.nn.functional.pad(bias[:, None], (0, layer.shared - 1)).reshape(-1)
            yield _Piece(
                row.repeat_interleave(layer.shared),
                layer.routed + number.repeat(len(row)),
                layer.routed * layer.width + number.repeat(len(row)) * layer.shared_width,
                weight.reshape(-1),
                shared.activation[where].float().reshape(slots),
                shared.intermediate[where].float().reshape(slots),
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
        if not counted:
            return
        sample, expert, weight = (torch.cat(values) for values in zip(*counted, strict=True))
        experts = self.scores.routed_tokens.shape[2]
        cell, cells = sample * experts + expert, self.samples * experts
        tokens = torch.bincount(cell, minlength=cells).view(-1, experts)
        mass = torch.bincount(cell, weights=weight.double(), minlength=cells).view(-1, experts)
        self.scores.routed_tokens[:, position] = tokens.cpu().numpy()
        self.scores.gate_mass[:, position] = mass.cpu().numpy()

    def _keep_largest(self, array: np.ndarray, position: int, at: Rows, values: torch.Tensor) -> None:
        worst = torch.full((self.samples,), -torch.inf, device=values.device)
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

    def _rank(self, position: int, formulation: str, parts: list[Slots]) -> None:
        for name, stored in self.scores.ranked.items():
            if name[0] == formulation:
                entries = SELECTIONS[name[1]](parts, self.samples, self.ranks)
                for array, values in zip(stored, ranking.to_arrays(entries, self.samples, self.ranks), strict=True):
                    array[:, position] = values.numpy()
        if formulation in self._per_token:
            sample, neuron, rank = ranking.rank_per_token(parts, self.samples, self.ranks)
            found = torch.stack([sample, torch.full_like(sample, position), rank, neuron])
            self._per_token[formulation].append(found.cpu().numpy())


def _through(pulled: torch.Tensor, at: Rows) -> tuple[torch.Tensor, torch.Tensor | None]:
    """What lies between experts and block output: the vectors to score with, (rows, H_e), and its factor in G, (rows,).

    A map that only scales belongs to G (None where it is 1), any other to the vectors.
    """
    if pulled is at.vectors or pulled.data_ptr() == at.vectors.data_ptr():
        return at.head, None
    there, given = pulled[at.position], at.vectors[at.position]
    if there.shape == given.shape:
        a, b = there.float(), given.float()
        scale = (a * b).sum(1) / b.square().sum(1)
        rounding = 16 * torch.finfo(pulled.dtype).eps * scale.abs() * b.abs().amax(1)
        if ((a - scale[:, None] * b).abs().amax(1) <= rounding).all():
            return at.head, scale
    return there * (at.head != 0).any(1, keepdim=True), None
