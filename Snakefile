"""How Mixture-of-Experts language models use their neurons, from checkpoints to one report.

A table of contents: the stages stand in the order in which data flows, one file each. `all` is everything;
every stage has a target of its own name, for instance `snakemake --cores all utilization`.
"""

from snakemake.utils import min_version

min_version("9.27")


# Snakemake merges config files key by key. A study stands alone, so the embedded one is read only where no other is.
if not workflow.overwrite_configfiles:

    configfile: "config/config.yaml"


report: "rules/captions/study.rst"


include: "rules/common.smk"
include: "rules/checkpoints.smk"
include: "rules/responses.smk"
include: "rules/contributions.smk"
include: "rules/key_neurons.smk"
include: "rules/utilization.smk"
include: "rules/experts.smk"
include: "rules/enrichment.smk"
include: "rules/sensitivity.smk"
include: "rules/masking.smk"
include: "rules/threshold_selection.smk"
include: "rules/comparisons.smk"
include: "rules/dynamics.smk"
include: "rules/diversity.smk"
include: "rules/laws.smk"
include: "rules/diagnostics.smk"
include: "rules/exports.smk"
include: "rules/experiments.smk"
include: "rules/report.smk"
include: "rules/tracking.smk"


# On a cluster these run where Snakemake does: nodes often have no network, and one process writes MLflow's database.
localrules:
    task_data,
    checkpoint,
    tracking,
    experiments_tracking,


rule all:
    default_target: True
    input:
        "<results>/report.html",
        "<results>/tracking.json",


onstart:
    invocation.begin(Path("results", STUDY.name), STUDY.name, STUDY["tracking"]["uri"])


onsuccess:
    invocation.end(Path("results", STUDY.name), "finished")


onerror:
    invocation.end(Path("results", STUDY.name), "failed")
