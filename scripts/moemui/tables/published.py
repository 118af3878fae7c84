"""Tables: a study's own results beside the paper's published figures."""

from __future__ import annotations

from moemui.tables.columns import MODEL, NOTE, count, interval, number, text
from moemui.tables.table import Table

_FIGURE = text("figure", "mui_performance, trajectory, key_expert_proportion or top_experts")
_TASK = text("task", "the task as published, or `mean` over the tasks")
_METRIC = text("metric", "performance, mui, key_expert (KeyExpertProportion), frequency or expert_mui")

PUBLISHED = Table(
    "published",
    "One published figure beside the study's own value; stage laws.",
    (
        _FIGURE,
        text("published_model", "the model's name as published; of a trajectory, with its checkpoint"),
        MODEL,
        text("checkpoint", "the study's checkpoint that it stands beside"),
        _TASK,
        _METRIC,
        text("expert", "printed name of the expert that the metric is about; empty where it is about the model"),
        number("published", "the published value", "share", nullable=False),
        number("own", "the study's own value", "share", nullable=False),
        *interval("own", "own", "share"),
        number("difference", "own − published", "share difference", nullable=False),
        count("published_rank", "place of the published value among those that have an own one, 1 = highest"),
        count("own_rank", "place of the own value among the same, 1 = highest; equal values share the best place"),
        NOTE,
    ),
    ("figure", "published_model", "model", "checkpoint", "task", "metric", "expert"),
)


PUBLISHED_AGREEMENT = Table(
    "published_agreement",
    "How alike published and own values of one metric are, over models, checkpoints or experts; stage laws.",
    (
        _FIGURE,
        text("model", "the model whose experts or checkpoints are ranked; empty where models are"),
        _TASK,
        _METRIC,
        count("n_common", "models, checkpoints or experts that have both values"),
        number("spearman", "rank correlation of published and own values"),
        number("spearman_p", "its two-sided permutation p", "probability"),
        number("mean_difference", "mean of own − published", "share difference", nullable=False),
        NOTE,
    ),
    ("figure", "model", "task", "metric"),
)
