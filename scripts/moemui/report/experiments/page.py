"""One self-contained HTML page of a study's experiments: what the rules decided, then each experiment, then provenance.

Verdicts are those of the table of decisions; the page adds none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup

from moemui.experiments.hypotheses import Hypothesis
from moemui.report import libraries
from moemui.report.experiments import wording
from moemui.report.experiments.figures import of
from moemui.report.experiments.plan import Plan, Shown, titled
from moemui.report.figure_block import block, embedded
from moemui.report.figures.page_style import CONFIG
from moemui.report.page_parts import flat, preview, template
from moemui.report.wording import count, estimate, listed, sentence
from moemui.tables.experiments import DECISIONS, EFFECTS, MEASUREMENTS, SEED_EFFECTS

TABLES = {table.name: table for table in (DECISIONS, EFFECTS, SEED_EFFECTS, MEASUREMENTS)}


def write_page(
    path: str | Path,
    *,
    study: str,
    experiments: Sequence[Plan],
    tables: Mapping[str, pd.DataFrame],
    figures: Mapping[str, Shown],
    drawings: Mapping[str, str],
    left_out: Mapping[str, str],
    provenance: Mapping[str, Any],
    files: Mapping[str, Sequence[str]],
    made: Mapping[str, Mapping[str, Any]],
    drawn: Mapping[str, Mapping[str, Any]],
) -> None:
    """Write the page of a study's experiments to `path`.

    study: its name. experiments: in the order of the page. tables: the four of moemui.tables.experiments by name, all
    experiments together. figures, left_out: as `figures.collect` gives them; drawings: the SVG of each figure.
    provenance: commit, dirty, packages (name → version), stage_seconds (stage → seconds); what is absent or None is
    printed as not recorded. files: name of a table or figure → the files that hold it, relative to the page's folder.
    made: experiment → how its decisions were made, drawn: figure → how it was drawn, as `report.page.write_report`
    takes them; either may lack names.
    Raises ValueError for a table that is missing, rows of an experiment that is not given, or hypotheses or rules that
    are others in the table of decisions than in the plans.
    """
    _check(experiments, tables)
    script, style = libraries.tables()
    sections = []
    for plan in experiments:
        own = [
            block(
                shown.words, shown.data, shown.chart, drawings[name], caption=shown.words.caption,
                made=drawn.get(name), files=files.get(name, ()),
            )
            for name, shown in figures.items()
            if name.startswith(f"{plan.name}-")
        ]  # fmt: skip
        missing = {picture.title: left_out.get(f"{plan.name}-{picture.name}") for picture in plan.pictures}
        sections.append(
            _section(plan, of(plan, tables))
            | {"figures": own, "left_out": {k: v for k, v in missing.items() if v}, "made": made.get(plan.name)}
        )
    page = template("experiments.html.j2").render(
        study=study,
        experiments=sections,
        symbols=wording.SYMBOLS,
        tables=[
            preview(TABLES[name], tables[name], files.get(name, ())) | {"made": None, "meaning": TABLES[name].meaning}
            for name in TABLES
        ],
        provenance=provenance,
        chart_config=embedded(CONFIG),
        scripts={"charts": Markup(libraries.charts()), "tables": Markup(script)},
        styles={"tables": Markup(style)},
    )
    Path(path).write_text(page, encoding="utf-8")


def _check(experiments: Sequence[Plan], tables: Mapping[str, pd.DataFrame]) -> None:
    if set(tables) != set(TABLES):
        raise ValueError(f"the page is made of the tables {', '.join(TABLES)}; found {', '.join(sorted(tables))}")
    names = [plan.name for plan in experiments]
    for table, frame in tables.items():
        if strange := sorted(set(frame["experiment"]) - set(names)):
            raise ValueError(
                f"table {table} has rows of the experiment {strange[0]!r}, which is not given; give its plan"
            )
    for plan in experiments:
        decisions = of(plan, tables)["experiment_decisions"]
        decided = dict(zip(decisions["hypothesis"], decisions["rule"], strict=True))
        planned = {hypothesis.name: hypothesis.rule for hypothesis in plan.hypotheses}
        if decided != planned:
            other = sorted(name for name in {*decided, *planned} if decided.get(name) != planned.get(name))
            raise ValueError(
                f"experiment {plan.name}: {listed(other)} {'has' if len(other) == 1 else 'have'} another rule in the "
                "table of decisions than in the plan; judge the experiment again"
            )


def _section(plan: Plan, tables: Mapping[str, pd.DataFrame]) -> dict[str, Any]:
    """All that the template writes of one experiment, figures aside."""
    effects = tables["experiment_effects"]
    units = dict(zip(effects["effect"], effects["unit"], strict=True))
    rows = {row["hypothesis"]: pd.Series(row) for row in tables["experiment_decisions"].to_dict("records")}
    decisions = [_decision(plan, hypothesis, rows[hypothesis.name], units) for hypothesis in plan.hypotheses]
    return {
        "name": plan.name,
        "title": plan.title,
        "question": sentence(plan.question) if not plan.question.endswith("?") else plan.question,
        "paper": plan.paper,
        "outcome": plan.outcome,
        "controls": plan.controls,
        "limits": plan.limits,
        "seeds": listed([str(seed) for seed in plan.seeds]),
        "primary": next(decision for decision in decisions if decision["primary"]),
        "decisions": decisions,
        "before": _before(decisions),
        "effects": [_effect(plan, pd.Series(row)) for row in effects.to_dict("records")],
        "settings": flat({"settings": plan.settings, "measure": plan.measure, "cohorts": plan.cohorts}),
        "n_measurements": f"{len(tables['measurements']):,}",
    }


def _decision(plan: Plan, hypothesis: Hypothesis, row: pd.Series, units: Mapping[str, str]) -> dict[str, Any]:
    needs = [f"{titled(name)} {wording.region(region, units[name])}" for name, region in hypothesis.needs.items()]
    return {
        "name": titled(hypothesis.name),
        "primary": bool(row["primary"]),
        "claim": row["claim"],
        "effect": titled(row["effect"]),
        "mean": wording.measured(estimate(row, "mean"), row["unit"]),
        "seeds": _seeds(int(row["n_seeds"]), len(plan.seeds)),
        "rule": wording.rule(hypothesis, row["unit"]),
        "needs": listed(needs),
        "written": row["rule"],
        "decision": row["decision"],
        "for_paper": wording.for_paper(hypothesis, row["for_paper"]),
        "for_paper_class": row["for_paper"],
        "note": wording.ended(row["note"]),
        "runs_before_rule": int(row["runs_before_rule"]),
    }


def _effect(plan: Plan, row: pd.Series) -> dict[str, str]:
    return {
        "name": titled(row["effect"]),
        "meaning": wording.ended(row["meaning"]),
        "mean": wording.measured(estimate(row, "mean"), row["unit"]),
        "seeds": _seeds(int(row["n_seeds"]), len(plan.seeds)),
        "note": wording.ended(row["note"]),
    }


def _seeds(known: int, planned: int) -> str:
    return str(known) if known == planned else f"{known} of {planned}"


def _before(decisions: Sequence[Mapping[str, Any]]) -> list[str]:
    """What is to be known of rules that are younger than some of the runs; empty where none is."""
    runs = {decision["name"]: decision["runs_before_rule"] for decision in decisions if decision["runs_before_rule"]}
    if len(runs) == len(decisions) and len(set(runs.values())) == 1:
        number = next(iter(runs.values()))
        return [f"{count(number, 'run')} {'was' if number == 1 else 'were'} made before the rules read as they do now."]
    return [
        f"{count(number, 'run')} {'was' if number == 1 else 'were'} made before the rule of {name} read as it does now."
        for name, number in runs.items()
    ]
