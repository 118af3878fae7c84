"""From tables to flags: what in a model's use of its neurons and experts deserves a look.

INPUTS   utilization, key_experts, phases and, where the study masks neurons, masking_effect.
OUTPUTS  <results>/tables/diagnostics.parquet with a CSV twin: four flags a model with the figures that raised them.
"""


rule diagnostics:
    input:
        utilization="<results>/tables/utilization.parquet",
        key_experts="<results>/tables/key_experts.parquet",
        phases="<results>/tables/phases.parquet",
        masking_effect=(
            "<results>/tables/masking_effect.parquet"
            if "masking_effect" in GATHERED
            else []
        ),
        chosen=chosen_threshold(),
    output:
        **table("diagnostics"),
        record="<results>/records/diagnostics.json",
    log:
        "<logs>/diagnostics.log",
    benchmark:
        "<benchmarks>/diagnostics.tsv"
    conda:
        "../envs/analysis.yaml"
    resources:
        **RESOURCES.analysis("diagnostics"),
    params:
        curve_setting=STUDY.curve_setting(),
        expert_setting=STUDY.expert_setting(),
        masking_setting=STUDY.shown_masking_setting(),
        expert_threshold=STUDY["analysis"]["expert_threshold"],
        code=digest("diagnose_models"),
    script:
        "../scripts/diagnose_models.py"
