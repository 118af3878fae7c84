"""From key neurons over checkpoints to phases of training, tasks that part from the mean, and change points.

INPUTS   key_neurons.h5 of every checkpoint and task; checkpoint.json for the tokens seen.
OUTPUTS  <results>/tables/phases.parquet, phase_divergence.parquet and change_points.parquet, each with a CSV twin.
"""


rule dynamics:
    input:
        key_neurons=study_files("key_neurons.h5", STUDY.tasks),
        checkpoints=study_files("checkpoint.json"),
        chosen=chosen_threshold(),
    output:
        **table("phases"),
        **table("phase_divergence"),
        **table("change_points"),
        record="<results>/records/dynamics.json",
    log:
        "<logs>/dynamics.log",
    benchmark:
        "<benchmarks>/dynamics.tsv"
    conda:
        "../envs/analysis.yaml"
    resources:
        **RESOURCES.analysis("dynamics"),
    params:
        settings=STUDY.main_settings(),
        order={model: STUDY.checkpoints(model) for model in STUDY.models},
        seed=STUDY["seed"],
        code=digest("trace_dynamics"),
    script:
        "../scripts/trace_dynamics.py"
