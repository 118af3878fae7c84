"""From tables over checkpoints to phases: Accumulating, Evolving, Coarsening, Collapsing or Flat.

INPUTS   utilization.parquet of every model; key_neurons.h5 for which samples were answered correctly.
OUTPUTS  <results>/tables/phases.parquet with a CSV twin, per task and for the mean over tasks.
"""


rule dynamics:
    input:
        utilization=model_tables("utilization"),
        key_neurons=study_files("key_neurons.h5", STUDY.tasks),
    output:
        **table("phases"),
        record="<results>/records/dynamics.json",
    log:
        "<logs>/dynamics.log",
    benchmark:
        "<benchmarks>/dynamics.tsv"
    conda:
        "../envs/analysis.yaml"
    resources:
        mem_mb=2000,
    params:
        settings=STUDY.main_settings(),
        seed=STUDY["seed"],
        code=digest("trace_dynamics"),
    script:
        "../scripts/trace_dynamics.py"
