"""From key neurons to comparisons of MUI at one number of samples: tasks, checkpoints, models.

INPUTS   key_neurons.h5 of every checkpoint and task of the study.
OUTPUTS  <results>/tables/comparisons.parquet with a CSV twin: differences with interval, p, q and verdict.
"""


rule comparisons:
    input:
        key_neurons=study_files("key_neurons.h5", STUDY.tasks),
        chosen=chosen_threshold(),
    output:
        **table("comparisons"),
        record="<results>/records/comparisons.json",
    log:
        "<logs>/comparisons.log",
    benchmark:
        "<benchmarks>/comparisons.tsv"
    conda:
        "../envs/analysis.yaml"
    resources:
        **RESOURCES.analysis("comparisons"),
    params:
        settings=STUDY.main_settings(),
        order={model: STUDY.checkpoints(model) for model in STUDY.models},
        code=digest("compare_utilization"),
    script:
        "../scripts/compare_utilization.py"
