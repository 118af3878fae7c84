"""What makes a neuron key: a setting, by which every result says how it came about."""

from __future__ import annotations

from typing import NamedTuple

RULES = ("topk", "top_score", "global_topk")
MAIN = "main"


class Setting(NamedTuple):
    """What makes a neuron key: formulation, selection, threshold η, the rule that applies it, and the scoring options.

    rule: one of RULES; with top_score the threshold is a share of the layer's highest score. variant: MAIN, or the name
    that a study gives to other scoring options (no gate weighting, another alignment).
    """

    formulation: str
    selection: str
    threshold: float
    rule: str = "topk"
    variant: str = MAIN

    @property
    def label(self) -> str:
        """As printed: projection/pairs/0.001, then /top_score and /VARIANT where they are not the usual ones."""
        parts = [self.formulation, self.selection, f"{self.threshold:g}"]
        parts += [self.rule] * (self.rule != "topk") + [self.variant] * (self.variant != MAIN)
        return "/".join(parts)

    @classmethod
    def parse(cls, label: str) -> Setting:
        """The inverse of `label`. Raises ValueError for other text."""
        formulation, selection, threshold, *rest = label.split("/")
        rule = rest.pop(0) if rest and rest[0] in RULES else "topk"
        variant = rest.pop(0) if rest else MAIN
        return cls(formulation, selection, float(threshold), rule, variant)
