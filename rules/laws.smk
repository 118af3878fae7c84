"""From tables and key neurons to laws: performance against MUI over models, incidence against rank over neurons.

INPUTS   utilization, performance, key_experts and expert_frequency of the study; key_neurons.h5 of each model's first
         and last checkpoint; the paper's published figures, which lie beside the code that reads them.
OUTPUTS  <results>/tables/, each with a CSV twin: utility_law and decay with their curves, published and
         published_agreement (the study's own values beside the paper's, where names agree).
"""


rule laws:
    input:
        utilization="<results>/tables/utilization.parquet",
        performance="<results>/tables/performance.parquet",
        key_experts="<results>/tables/key_experts.parquet",
        expert_frequency="<results>/tables/expert_frequency.parquet",
        key_neurons=study_end_files("key_neurons.h5", STUDY.tasks),
        chosen=chosen_threshold(),
    output:
        **table("utility_law"),
        **table("utility_curve"),
        **table("decay"),
        **table("decay_curve"),
        **table("published"),
        **table("published_agreement"),
        record="<results>/records/laws.json",
    log:
        "<logs>/laws.log",
    benchmark:
        "<benchmarks>/laws.tsv"
    conda:
        "../envs/analysis.yaml"
    resources:
        **RESOURCES.analysis("laws"),
    params:
        curve_setting=STUDY.curve_setting(),
        expert_setting=STUDY.expert_setting(),
        expert_threshold=STUDY["analysis"]["expert_threshold"],
        seed=STUDY["seed"],
        code=digest("fit_laws", "moemui/laws/published_figures.csv"),
    script:
        "../scripts/fit_laws.py"
