"""How much do results depend on threshold, formulation and selection?

INPUTS   utilization.parquet and key_experts.parquet of every model.
OUTPUTS  <results>/tables/sensitivity.parquet with a CSV twin: correlations between every pair of settings.
"""


rule sensitivity:
    input:
        utilization=model_tables("utilization"),
        key_experts=model_tables("key_experts"),
    output:
        **table("sensitivity"),
        record="<results>/records/sensitivity.json",
    log:
        "<logs>/sensitivity.log",
    benchmark:
        "<benchmarks>/sensitivity.tsv"
    conda:
        "../envs/analysis.yaml"
    resources:
        mem_mb=2000,
    params:
        seed=STUDY["seed"],
        code=digest("correlate_settings"),
    script:
        "../scripts/correlate_settings.py"
