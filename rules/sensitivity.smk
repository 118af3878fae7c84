"""How much do results depend on threshold, formulation, selection, rule, scoring options and η_expert?

INPUTS   utilization.parquet and key_experts.parquet of every model.
OUTPUTS  <results>/tables/ sensitivity.parquet (every pair of settings) and expert_threshold_sensitivity.parquet (every
         pair of η_expert), each with a CSV twin: correlations and cosines with intervals.
"""


rule sensitivity:
    input:
        utilization=model_tables("utilization"),
        key_experts=model_tables("key_experts"),
    output:
        **table("sensitivity"),
        **table("expert_threshold_sensitivity"),
        record="<results>/records/sensitivity.json",
    log:
        "<logs>/sensitivity.log",
    benchmark:
        "<benchmarks>/sensitivity.tsv"
    conda:
        "../envs/analysis.yaml"
    resources:
        **RESOURCES.analysis("sensitivity"),
    params:
        expert_threshold=STUDY["analysis"]["expert_threshold"],
        seed=STUDY["seed"],
        code=digest("correlate_settings"),
    script:
        "../scripts/correlate_settings.py"
