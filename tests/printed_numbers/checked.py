"""What the topics that check or go across models may print, counted from the tables."""

from __future__ import annotations

import numpy as np
import pandas as pd

from moemui.report.views import Choice
from printed_numbers.reading import (
    Expected,
    at,
    at_limit,
    cells,
    chance,
    fixed,
    in_words,
    interval,
    last,
    mean,
    models,
    numbers,
    of,
    percent,
    plain,
    side,
    some,
)

Tables = dict[str, pd.DataFrame]
FLAGS = {
    "mui_without_decline": ["30"],
    "few_key_experts": ["5"],
    "shared_and_total_mui_high": [],
    "cheap_masking": ["2"],
}
FINER, COARSER, SAME = "neuron level resolves finer", "neuron level resolves coarser", "no difference shown"


def ratio(row: pd.Series) -> list[str]:
    values = cells(row, "odds_ratio_corrected")
    texts = [f"{value:,.{0 if value >= 100 else 1}f}" for value in values]
    return texts if np.isfinite(values).all() else texts[:1]


def enrichment(tables: Tables, choice: Choice) -> Expected:
    every = at_limit(at(tables["enrichment"], choice.experts), choice.expert_threshold)
    every, found, tested = of(every, task_set="all"), Expected(), 0
    newest = at_limit(at(tables["enrichment"], choice.experts), choice.expert_threshold).groupby("model")["order"].max()
    shown = every[every["is_baseline"] | (every["order"] == every["model"].map(newest))]
    for _, row in last(shown).iterrows():
        shared = row["shared_key"] + row["shared_other"]
        found.groups[row["model"]] = []
        if not shared:
            continue
        tested += 1
        said = [
            str(row["shared_key"]),
            str(shared),
            str(row["routed_key"]),
            str(row["routed_key"] + row["routed_other"]),
        ]
        if np.isnan(row["odds_ratio_corrected"]):
            found.groups[row["model"]] = said + numbers(row["note"])
            continue
        said += [*chance(row["p_greater"]), *chance(row["q_greater"]), *ratio(row)]
        start = of(every, model=row["model"], is_baseline=True)
        if not row["is_baseline"] and len(start):
            before = start.iloc[0]
            if np.isnan(before["odds_ratio_corrected"]):
                said += numbers(before["note"])
            else:
                said += [*chance(before["p_greater"]), *ratio(before), *interval(*cells(row, "log_odds_change"), 2)]
        cell = {"model": row["model"], "checkpoint": row["checkpoint"]}
        fits = of(at(tables["exposure"], choice.experts), **cell, task_set="all")
        for _, fit in at_limit(fits, choice.expert_threshold).iterrows():
            if pd.isna(fit["likelihood_ratio_p"]):
                said += numbers(fit["note"])
                continue
            said += interval(*cells(fit, "log_odds_shared"), 2) if pd.notna(fit["log_odds_shared"]) else []
            said += [*chance(fit["likelihood_ratio_p"]), *chance(fit["likelihood_ratio_q"])]
        others = of(tables["enrichment"], **cell, task_set="all")
        for _, other in at_limit(others, choice.expert_threshold).iterrows():
            same = at(other.to_frame().T, (*choice.experts[:4], other["variant"]))
            if same.empty or other["variant"] == choice.experts.variant:
                continue
            if np.isnan(other["odds_ratio_corrected"]):
                said += numbers(other["note"].split(";")[0])
                continue
            said += [str(other["shared_key"]), str(other["routed_key"])]
            said += [*chance(other["p_greater"]), *chance(other["q_greater"]), *ratio(other)]
        for _, top in of(at(tables["top_composition"], choice.experts), **cell, task="all").iterrows():
            said += [str(top["n_shared"]), str(top["n_top"]), fixed(top["expected_shared"], 1)]
            said += [*chance(top["p_greater"]), *chance(top["q_greater"])]
        found.groups[row["model"]] = said
    found.always = [*(["1e−29", "1e−57", "50"] if tested else []), "0.5"]
    return found


def losses(tables: Tables, choice: Choice) -> pd.DataFrame:
    rows = at(tables["masking_effect"], choice.masking)
    return rows[rows[["loss_key", "loss_random", "loss_difference"]].notna().all(axis=1)]


def masking(tables: Tables, choice: Choice) -> Expected:
    every, found = losses(tables, choice), Expected()
    high, low = [], []
    for model, checkpoint in dict.fromkeys(zip(every["model"], every["checkpoint"], strict=True)):
        own = of(every, model=model, checkpoint=checkpoint, control="expert")
        key, random, difference = (mean(own, f"loss_{name}") for name in ("key", "random", "difference"))
        high.append(side(key[1] - 0.10, key[2] - 0.10))
        low.append(-side(random[1] - 0.02, random[2] - 0.02))
        signs = [side(*cells(row, "loss_difference")[1:]) for _, row in own.iterrows()]
        said = [*percent(*key), *percent(*random), str(len(own)), *percent(*difference)]
        said += [str(signs.count(1)), *some(signs.count(0), signs.count(-1))]
        if own["nll_difference"].notna().all():
            said += interval(*mean(own, "nll_difference"), 2)
        beside = of(every, model=model, checkpoint=checkpoint, control="frequency")
        if len(beside):
            said += percent(*mean(beside, "loss_difference"))
            apart = beside["activation_frequency_smd"].dropna().abs()
            loose = int((apart > 0.1).sum())
            said += [str(loose), str(len(apart))] if loose else []
            said += [fixed(apart.max(), 2)] if len(apart) else []
            said += ["0.1"] if loose else []
        found.groups[f"{model} at {checkpoint}"] = said
    for limit, met in (("10", high), ("2", low)):
        found.always += [limit, str(met.count(1)), str(len(met)), *some(met.count(-1), met.count(0))]
    found.always += in_words(choice.masking)
    return found


def parts(label: str) -> list[str]:
    formulation, selection, threshold, *rest = label.split("/")
    rule = rest.pop(0) if rest and rest[0] in ("topk", "top_score", "global_topk") else "topk"
    return [formulation, selection, threshold, rule, rest[0] if rest else "main"]


def sensitivity(tables: Tables, choice: Choice) -> Expected:
    rows = tables["sensitivity"]
    pairs = [(parts(a), parts(b)) for a, b in zip(rows["setting_a"], rows["setting_b"], strict=True)]
    rows = rows.assign(
        differ=[",".join(str(i) for i in range(5) if a[i] != b[i]) for a, b in pairs],
        usual=[sum(setting[3:] == ["topk", "main"] for setting in pair) for pair in pairs],
        paper=[all(setting[2] in ("0.0008", "0.001", "0.002") for setting in pair) for pair in pairs],
        by_score=[any(setting[3] == "top_score" for setting in pair) for pair in pairs],
    )
    found = Expected()
    for measure, part, statistic, figure in (
        ("mui", "2", "pearson", "0.9958"),
        ("mui", "0", "spearman", "0.92"),
        ("key_expert_proportion", "2", "cosine", "0.9947"),
    ):
        own = rows[
            (rows["measure"] == measure) & (rows["differ"] == part) & (rows["usual"] == 2) & rows[statistic].notna()
        ]
        if own["paper"].any():
            found.always += [*_lowest(own[own["paper"]], statistic, len(figure) - 2), figure]
        if not own["paper"].all():
            found.always += _lowest(own, statistic, len(figure) - 2)
    measures = (("mui", "spearman", choice.curves), ("key_expert_proportion", "cosine", choice.experts))
    for part in ("1", "3", "4"):
        for measure, statistic, _ in measures:
            own = rows[(rows["measure"] == measure) & (rows["differ"] == part) & (rows["usual"] >= 1)]
            own = own[own[statistic].notna() & ~own["by_score"]]
            found.always += _lowest(own, statistic) if len(own) else []
        for measure, statistic, shown in measures if part == "3" else ():
            own = rows[(rows["measure"] == measure) & rows[statistic].notna() & rows["by_score"]]
            sides = zip(own["setting_a"], own["setting_b"], strict=True)
            own = own[[_beside_top_score(pair, shown.label) for pair in sides]]
            found.always += _lowest(own, statistic) if len(own) else []
    return found


def _beside_top_score(pair: tuple[str, str], shown: str) -> bool:
    if shown not in pair:
        return False
    other, own = parts(pair[pair[0] == shown]), parts(shown)
    return other[3] == "top_score" != own[3] and (*other[:2], other[4]) == (*own[:2], own[4])


def _lowest(rows: pd.DataFrame, statistic: str, decimals: int = 2) -> list[str]:
    row = rows.sort_values(statistic, kind="stable").iloc[0]
    said = [str(len(rows))] * (len(rows) > 1)
    for name in (statistic, *(["spearman"] if statistic == "cosine" and pd.notna(row["spearman"]) else [])):
        said += interval(row[name], row[f"{name}_clustered_low"], row[f"{name}_clustered_high"], decimals)
        decimals = 2
    return [*said, *(parts(row[f"setting_{which}"])[2] for which in "ab"), str(row["n_cells"])]


def threshold(tables: Tables, choice: Choice) -> Expected:
    rows, found = of(tables["threshold_selection"], model="all models"), Expected()
    for _, row in of(rows, control="expert").iterrows():
        said = [plain(row["threshold"])]
        if pd.notna(row["separation"]):
            said += ["0.1", *interval(*cells(row, "separation"), 4), str(row["n_significant"]), str(row["n_cells"])]
        found.always += said + numbers(row["note"])
    chosen = of(rows, control="frequency", chosen=True)
    found.always += [plain(number) for number in chosen["threshold"]]
    return found


def diversity(tables: Tables, choice: Choice) -> Expected:
    table = tables["diversity_effect"]
    table, found = table[table["resolution"].notna()], Expected(always=in_words(choice.curves))
    for model in models(last(table)):
        own = of(last(table), model=model)
        neuron = of(own, level="neuron", setting=choice.curves.label)
        if neuron.empty:
            continue
        mui = neuron.iloc[0]
        said = ["1", str(mui["n_domains"]), str(mui["n_samples"])]
        if pd.isna(mui["spearman"]):
            found.groups[model] = said + numbers(mui["note"])
            continue
        said += [*interval(*cells(mui, "spearman"), 2), *percent(*cells(mui, "resolution")), "50"]
        against = own[own["verdict"] != ""]
        for verdict in (FINER, COARSER, SAME):
            for _, row in of(against, verdict=verdict).iterrows():
                said += ([parts(row["setting"])[2]] if row["measure"] == "mui" else []) + chance(row["difference_p"])
        proportion, active = (of(against, measure=name) for name in ("key_expert_proportion", "active_experts"))
        if len(active) and list(proportion["verdict"]) == [FINER] and active["verdict"].iloc[0] != FINER:
            said += percent(*cells(active.iloc[0], "difference"))
        start = table[(table["model"] == model) & (table["tokens"] == 0) & (table["order"] != mui["order"])]
        start = of(start, measure="mui", setting=mui["setting"])
        if len(start) and start["resolution_low"].iloc[0] > 0.5:
            said += percent(*cells(start.iloc[0], "resolution"))
        found.groups[model] = said
    return found


def laws(tables: Tables, choice: Choice) -> Expected:
    found = Expected(groups={"": []})  # across models, then by model
    lines = of(tables["utility_law"], task="mean", form="linear")
    for _, row in lines[lines["slope"].notna()].iterrows():
        said = [str(row["n_points"])]
        said += percent(*cells(row, "r_squared")) if pd.notna(row["r_squared"]) else []
        said += chance(row["slope_p"]) if pd.notna(row["slope_p"]) else numbers(row["note"])
        found.groups.setdefault(row["model"] if row["scope"] == "checkpoints" else "", []).extend(said)
    missing = lines[lines["slope"].isna()]["note"].str.split(";").str[0]
    found.groups[""] += [number for note in dict.fromkeys(missing) for number in numbers(note)]
    for _, row in of(last(at(tables["decay"], choice.curves)), task="all").iterrows():
        said = found.groups.setdefault(row["model"], [])
        if row[["alpha", "xmin", "n_tail"]].isna().any():
            said += numbers(row["note"])
            continue
        said += [str(row["xmin"]), *interval(*cells(row, "alpha"), 2), str(row["n_tail"]), *chance(row["p_fit"])]
    return found


def flags(tables: Tables, choice: Choice) -> Expected:
    rows, found = tables["diagnostics"], Expected()
    words = {"mui_without_decline": "MUI above 30 % without decline",
             "few_key_experts": "fewer than 5 % of the experts key",
             "shared_and_total_mui_high": "MUI of the shared experts and of all both high",
             "cheap_masking": "masking key neurons costs less than 2 %"}  # fmt: skip
    for _, row in rows[rows["outcome"].isin(("raised", "undecided"))].iterrows():
        found.groups[f"{row['model']}: {words[row['flag']]}"] = FLAGS[row["flag"]] + numbers(row["evidence"])
    for outcome in ("not raised", "not measured"):
        found.always += [number for flag in of(rows, outcome=outcome)["flag"].unique() for number in FLAGS[flag]]
    return found


def published(tables: Tables, choice: Choice) -> Expected:
    found = Expected()
    for _, row in tables["published_agreement"].iterrows():
        whose = f" of {row['model']}" if row["model"] else ""
        said = found.groups.setdefault(f"{row['metric'].replace('_', ' ')}{whose}, {row['task']}", [])
        said += [str(row["n_common"]), *percent(row["mean_difference"])]
        said += [fixed(row["spearman"], 2), *chance(row["spearman_p"])] if pd.notna(row["spearman"]) else []
    return found
