"""Activation frequency: at what share of a task's response tokens each neuron is switched on.

A neuron is switched on at a token when its expert is used by the token (with a weight that is not 0) and its gate
activation act(x W_gate)_j is positive; in an MLP without a gate, when its activation act(x W_up)_j is. Tokens are
counted at the states that the scorer's alignment scores, so a neuron can only be key where it can be counted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from moemui.scores.contributions import Sample, Scorer, batches
from moemui.tap.capture import Tap
from moemui.tap.families import Site
from moemui.tap.layer_pass import LayerPass


@dataclass(frozen=True)
class Activity:
    """How often every neuron was switched on. active: int64, (Σ M_l,), by flat number; tokens: response tokens."""

    active: np.ndarray
    tokens: int

    @property
    def frequency(self) -> np.ndarray:
        """Activation frequency, active / tokens: float64, (Σ M_l,), 0..1; NaN throughout without response tokens."""
        return self.active / self.tokens if self.tokens else np.full(len(self.active), np.nan)


@torch.no_grad()
def activity(
    *, scorer: Scorer, samples: Sequence[Sample], progress: Callable[[int], None] = lambda done: None
) -> Activity:
    """Count where the neurons of the scorer's model are switched on, in one plain forward pass over the samples.

    Which tokens count, and at which states, is the scorer's: its options' alignment and eos. Nothing is scored, so it
    costs about a forward pass. progress is called with the number of samples done after every batch. An empty response
    has no tokens. Raises ValueError as `Scorer.scored_tokens`, and RuntimeError for a layer that a pass went by or ran
    twice.
    """
    responses = [scorer.scored_tokens(sample) for sample in samples]
    fed = [scorer.fed(sample, response) for sample, response in zip(samples, responses, strict=True)]
    active = [np.zeros(site.layer.neurons, dtype=np.int64) for site in scorer.sites]
    done = sum(not response for response in responses)
    for batch in batches(
        [len(ids) for ids in fed], [bool(response) for response in responses], scorer.max_batch_tokens
    ):
        width = max(len(fed[i]) for i in batch)
        ids, mask = torch.zeros(2, len(batch), width, dtype=torch.long)
        for row, i in enumerate(batch):
            ids[row, : len(fed[i])] = torch.tensor(fed[i])
            mask[row, : len(fed[i])] = 1
        wanted = mask.bool()
        for row, i in enumerate(batch):
            # The state that predicts y_1 is the prompt's last one; y_1's own comes after it.
            wanted[row, : len(samples[i].prompt) - (scorer.options.alignment == "next_token")] = False
        counts = _Counts(scorer.sites)
        with Tap(scorer.sites, observer=counts.observe, wanted=wanted.flatten()):
            scorer.model.get_decoder()(
                input_ids=ids.to(scorer.device), attention_mask=mask.to(scorer.device), use_cache=False
            )
        for total, found in zip(active, counts.finished(), strict=True):
            total += found
        done += len(batch)
        progress(done)
    return Activity(np.concatenate(active), sum(map(len, responses)))


class _Counts:
    """Counts switched-on neurons of a batch while its forward pass runs; pass `observe` to the tap."""

    def __init__(self, sites: Sequence[Site]):
        self._sites = sites
        self._layers: dict[int, torch.Tensor] = {}

    def observe(self, position: int, passed: LayerPass) -> None:
        site = self._sites[position]
        if position in self._layers:
            raise RuntimeError(
                f"{site.name} ran twice in one forward pass, so its neurons are switched on twice a token; this model "
                "can't be measured"
            )
        layer = site.layer
        count = torch.zeros(layer.neurons, dtype=torch.int32, device=passed.output.device)
        routed = count[: layer.routed * layer.width].view(layer.routed, layer.width)
        for span in passed.routed or ():
            routed.index_add_(0, span.expert, (span.activation > 0).to(torch.int32))
        if passed.shared is not None:
            count[layer.routed * layer.width :] += (passed.shared.activation > 0).sum(0)
        self._layers[position] = count

    def finished(self) -> list[np.ndarray]:
        """Of every layer, int32 (M_l,)."""
        missing = [site.name for position, site in enumerate(self._sites) if position not in self._layers]
        if missing:
            raise RuntimeError(
                f"the forward pass went by {', '.join(missing[:4])}, {len(missing)} of {len(self._sites)} layers, so "
                "their neurons were not seen; this model can't be measured"
            )
        return [self._layers[position].cpu().numpy() for position in range(len(self._sites))]
