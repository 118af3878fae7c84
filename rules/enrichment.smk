"""From experts to shared against routed ones: are shared experts over-represented, and were they before training?

INPUTS   expert_frequency.parquet of every model.
OUTPUTS  <results>/tables/ enrichment.parquet (Fisher's test on every task set, beside the untrained checkpoint),
         exposure.parquet (the same, adjusted for the tokens that an expert saw) and top_composition.parquet (the ten
         most frequent experts), each with a CSV twin.
"""


rule enrichment:
    input:
        frequencies=model_tables("expert_frequency"),
    output:
        **table("enrichment"),
        **table("exposure"),
        **table("top_composition"),
        record="<results>/records/enrichment.json",
    log:
        "<logs>/enrichment.log",
    benchmark:
        "<benchmarks>/enrichment.tsv"
    conda:
        "../envs/analysis.yaml"
    resources:
        **RESOURCES.analysis("enrichment"),
    params:
        expert_threshold=STUDY["analysis"]["expert_threshold"],
        code=digest("compare_shared_experts"),
    script:
        "../scripts/compare_shared_experts.py"
