"""At which threshold does masking tell key from random neurons best while ranks of MUI stay stable?

INPUTS   masking_effect.parquet and sensitivity.parquet of the study.
OUTPUTS  <results>/tables/threshold_selection.parquet with a CSV twin, per model and for all together; what
         `threshold: auto` stands for.
"""


rule threshold_selection:
    input:
        masking_effect="<results>/tables/masking_effect.parquet",
        sensitivity="<results>/tables/sensitivity.parquet",
    output:
        **table("threshold_selection"),
        record="<results>/records/threshold_selection.json",
    log:
        "<logs>/threshold_selection.log",
    benchmark:
        "<benchmarks>/threshold_selection.tsv"
    conda:
        "../envs/analysis.yaml"
    resources:
        **RESOURCES.analysis("threshold_selection"),
    params:
        code=digest("choose_threshold"),
    script:
        "../scripts/choose_threshold.py"
