"""Tables: how often experts are active, which are key, and how tasks, domains and other experts bear on it."""

from __future__ import annotations

from moemui.tables.columns import (
    CHECKPOINT,
    EXPERT_THRESHOLD,
    MODEL,
    N_SAMPLES,
    NOTE,
    ORDER,
    SETTING,
    SETTING_KEY,
    TASK,
    TOKENS,
    count,
    estimate,
    interval,
    number,
    text,
)
from moemui.tables.table import Column, Table

EXPERT = text("expert", "printed name: L17-E8 routed (from 0), L28-S1 shared (from 1)")
LAYER = count("layer", "the layer's 0-based index in the model")
KIND = text("kind", "routed or shared")


def _probability(name: str, meaning: str) -> Column:
    return number(name, meaning, "probability", nullable=False)


EXPERT_FREQUENCY = Table(
    "expert_frequency",
    "One expert on one task: how often it is active and how much of it is key; stage experts.",
    (
        MODEL,
        CHECKPOINT,
        TOKENS,
        ORDER,
        TASK,
        *SETTING,
        EXPERT,
        LAYER,
        KIND,
        N_SAMPLES,
        number("frequency", "share of samples whose key set holds a neuron of the expert", "share", nullable=False),
        *interval("frequency", "frequency (Wilson)", "share"),
        number("expert_mui", "share of the expert's own neurons that are key", "share", nullable=False),
        Column("common_m", "Int64", "samples", "number of samples at which cells of the model are compared", True),
        *estimate("expert_mui_at_m", "expected expert_mui of common_m of the samples", "share"),
        Column("is_key", "bool", "", "frequency ≥ η_expert"),
        count("rank", "1 = most frequent; ties: higher expert_mui, then lower expert number"),
        count("routed_tokens", "response tokens routed to the expert; shared: all response tokens", "tokens"),
        NOTE,
    ),
    ("model", "checkpoint", "task", *SETTING_KEY, "expert"),
)


KEY_EXPERTS = Table(
    "key_experts",
    "One cell (model, checkpoint, task) under one expert threshold: how many experts are key; stage experts.",
    (
        MODEL,
        CHECKPOINT,
        TOKENS,
        ORDER,
        TASK,
        *SETTING,
        EXPERT_THRESHOLD,
        N_SAMPLES,
        count("n_experts", "Σ_l (E_r + E_s), the proportion's denominator", "experts"),
        count("n_key", "key experts", "experts"),
        count("n_key_shared", "key experts that are shared", "experts"),
        count("n_undecided", "experts of which the frequency's interval contains η_expert: key or not", "experts"),
        number("proportion", "KeyExpertProportion, n_key / n_experts", "share", nullable=False),
        *interval("proportion", "proportion (percentile bootstrap over samples)", "share"),
        NOTE,
    ),
    ("model", "checkpoint", "task", *SETTING_KEY, "expert_threshold"),
)


EXPERT_OVERLAP = Table(
    "expert_overlap",
    "Two tasks of one checkpoint: how many key experts they have in common, against chance; stage experts.",
    (
        MODEL,
        CHECKPOINT,
        TOKENS,
        ORDER,
        *SETTING,
        EXPERT_THRESHOLD,
        text("task_a", "a task"),
        text("task_b", "another one"),
        count("n_experts", "Σ_l (E_r + E_s), among which key experts would be placed at random", "experts"),
        count("n_key_a", "key experts of task_a", "experts"),
        count("n_key_b", "key experts of task_b", "experts"),
        count("n_both", "experts that are key on both tasks", "experts"),
        number("jaccard", "n_both / experts that are key on at least one of the tasks", "share"),
        *interval("jaccard", "jaccard (percentile bootstrap over the samples of each task)", "share"),
        number("jaccard_expected", "expected jaccard of as many key experts placed at random", "share"),
        _probability("p", "chance of n_both or more with key experts placed at random (hypergeometric)"),
        _probability("q", "p after Benjamini–Hochberg over the testable pairs of tasks of the row's checkpoint"),
        number("jaccard_expected_within_kind", "jaccard_expected, routed and shared ones placed separately", "share"),
        _probability("p_within_kind", "as p, routed and shared key experts placed separately among their kind"),
        _probability("q_within_kind", "p_within_kind after Benjamini–Hochberg, as q"),
        NOTE,
    ),
    ("model", "checkpoint", *SETTING_KEY, "expert_threshold", "task_a", "task_b"),
)


EXPERTS_SHARED = Table(
    "experts_shared",
    "How many experts of a kind are key on exactly k tasks of one checkpoint; stage experts.",
    (
        MODEL,
        CHECKPOINT,
        TOKENS,
        ORDER,
        *SETTING,
        EXPERT_THRESHOLD,
        KIND,
        count("k", "number of tasks, 0 to n_tasks", "tasks"),
        count("n_experts", "experts of the kind that are key on exactly k tasks", "experts"),
        count("n_tasks", "tasks of the checkpoint", "tasks"),
        count("n_kind", "experts of the kind", "experts"),
    ),
    ("model", "checkpoint", *SETTING_KEY, "expert_threshold", "kind", "k"),
)


SPECIALIZATION = Table(
    "specialization",
    "One expert of one checkpoint: what its being active says about a sample's domain; stage experts.",
    (
        MODEL,
        CHECKPOINT,
        TOKENS,
        ORDER,
        *SETTING,
        EXPERT,
        LAYER,
        KIND,
        count("n_domains", "domains of the samples", "domains"),
        N_SAMPLES,
        count("n_active", "samples in which the expert is active", "samples"),
        number("mutual_information", "between the expert being active and the sample's domain", "bits", nullable=False),
        number("mutual_information_expected", "its mean if domains were dealt out at random", "bits", nullable=False),
        number(
            "selectivity",
            "mutual information beyond chance, as share of its maximum: 0 at chance or below, 1: the domain decides",
            "share",
            nullable=False,
        ),
        _probability("p", "test of no association with the domain: G test, or Monte Carlo, as the note says"),
        _probability("q", "p after Benjamini–Hochberg over the testable experts of the checkpoint"),
        text("domains", "domains where it is more often active than elsewhere (Fisher, 5 %); empty where q ≥ 0.05"),
        text("top_domain", "domain where it is most often active; empty for an expert that can't be tested"),
        *estimate("frequency_top", "share of the top domain's samples in which it is active", "share"),
        *estimate("frequency_elsewhere", "share of the other domains' samples in which it is active", "share"),
        NOTE,
    ),
    ("model", "checkpoint", *SETTING_KEY, "expert"),
)


SPECIALIZATION_SUMMARY = Table(
    "specialization_summary",
    "The experts of one kind of one checkpoint: how many are specialised in a domain; stage experts.",
    (
        MODEL,
        CHECKPOINT,
        TOKENS,
        ORDER,
        *SETTING,
        KIND,
        count("n_domains", "domains of the samples", "domains"),
        N_SAMPLES,
        count("n_experts", "experts of the kind", "experts"),
        count("n_active", "of them active in a sample or more", "experts"),
        count("n_testable", "of them active in some samples and not in all", "experts"),
        count("n_specialised", "of them with q < 0.05", "experts"),
        number("mean_mutual_information", "mean over testable experts", "bits"),
        *interval("mean_mutual_information", "its mean over experts like these, not over samples (bootstrap)", "bits"),
        number("mean_mutual_information_expected", "mean over testable experts of what chance gives", "bits"),
        NOTE,
    ),
    ("model", "checkpoint", *SETTING_KEY, "kind"),
)


COACTIVATION = Table(
    "coactivation",
    "Two experts of one checkpoint: are they active in the same samples, overall and within tasks; stage experts.",
    (
        MODEL,
        CHECKPOINT,
        TOKENS,
        ORDER,
        *SETTING,
        text("expert_a", "printed name of an expert"),
        text("expert_b", "printed name of another one"),
        text("kind_a", "routed or shared"),
        text("kind_b", "routed or shared"),
        count("layer_a", "0-based index of its layer in the model"),
        count("layer_b", "0-based index of its layer in the model"),
        N_SAMPLES,
        count("n_a", "samples in which expert_a is active", "samples"),
        count("n_b", "samples in which expert_b is active", "samples"),
        count("n_both", "samples in which both are active", "samples"),
        number("expected", "n_both if they were independent over all tasks, n_a·n_b / n_samples", "samples"),
        number("lift", "n_both / expected"),
        number("phi", "correlation of their being active, over the samples of all tasks"),
        *interval("phi", "phi (Jeffreys, samples drawn within tasks)"),
        _probability("p", "Fisher's exact test over the samples of all tasks, two-sided"),
        _probability("q", "p after Benjamini–Hochberg over the pairs of the checkpoint"),
        text("verdict", "together or apart where q < 0.05, else undecided; over all tasks, so tasks alone can make it"),
        count("n_tasks_within", "tasks in which both experts are active in some samples and not in all", "tasks"),
        number("expected_within", "n_both if they were independent within each task", "samples"),
        number("phi_within", "correlation within tasks"),
        *estimate("odds_ratio_within", "Mantel–Haenszel odds ratio over tasks"),
        number("p_within", "test of no association within tasks: Cochran–Mantel–Haenszel, or exact", "probability"),
        number("q_within", "p_within after Benjamini–Hochberg over the testable pairs", "probability"),
        text("verdict_within", "together or apart where q_within < 0.05, else undecided: true co-activation"),
        NOTE,
    ),
    ("model", "checkpoint", *SETTING_KEY, "expert_a", "expert_b"),
)


COACTIVATION_SUMMARY = Table(
    "coactivation_summary",
    "The pairs of experts of one checkpoint: how many go together or apart, against chance; stage experts.",
    (
        MODEL,
        CHECKPOINT,
        TOKENS,
        ORDER,
        *SETTING,
        text("pairs", "all, same_layer or across_layers: experts of one layer compete for its key neurons"),
        N_SAMPLES,
        count("n_tasks", "tasks of the checkpoint", "tasks"),
        count("n_compared", "experts compared: the most frequent ones that are not active in every sample", "experts"),
        count("n_left_out", "experts active in fewer samples than those, so not compared", "experts"),
        count("n_always", "experts active in every sample, so not compared", "experts"),
        count("n_never", "experts active in no sample, so not compared", "experts"),
        count("n_pairs", "pairs compared", "pairs"),
        count("n_together", "pairs active together over all tasks (q < 0.05)", "pairs"),
        count("n_apart", "pairs active apart over all tasks", "pairs"),
        count("n_testable_within", "pairs that can be tested within tasks", "pairs"),
        count("n_together_within", "pairs active together within tasks (q_within < 0.05)", "pairs"),
        count("n_apart_within", "pairs active apart within tasks", "pairs"),
        number("mean_phi", "mean phi of the pairs"),
        number("mean_phi_within", "mean phi_within of the testable pairs"),
        number("chance_low", "lower end of where 95 % of mean_phi_within lie if experts are independent within tasks"),
        number("chance_high", "its upper end"),
        number("p_within", "chance of a mean_phi_within as far from 0 or farther", "probability"),
        NOTE,
    ),
    ("model", "checkpoint", *SETTING_KEY, "pairs"),
)
