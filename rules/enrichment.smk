"""From key experts to Fisher's test: are shared experts over-represented, and were they before training?

INPUTS   expert_frequency.parquet of every model.
OUTPUTS  <results>/tables/enrichment.parquet with a CSV twin; rows of the untrained checkpoint are the baseline.
"""


rule enrichment:
    input:
        frequencies=model_tables("expert_frequency"),
    output:
        **table("enrichment"),
        record="<results>/records/enrichment.json",
    log:
        "<logs>/enrichment.log",
    benchmark:
        "<benchmarks>/enrichment.tsv"
    conda:
        "../envs/analysis.yaml"
    resources:
        mem_mb=2000,
    params:
        expert_threshold=STUDY["analysis"]["expert_threshold"],
        code=digest("compare_shared_experts"),
    script:
        "../scripts/compare_shared_experts.py"
