"""From run records to MLflow, where runs are looked at.

INPUTS   the record of every job of the study (<results>/records/), and what failed or killed ones left behind.
OUTPUTS  one MLflow run for each record, and <results>/tracking.json, which says which run is which record's.

Records are the truth: a lost tracking database is filled again by `make track`, which can also be called while the
study runs, or after it failed. Waiting for all records makes this the last job.
"""


rule tracking:
    input:
        records=[*RECORDS, f"<results>/records/report.json"],
    output:
        runs="<results>/tracking.json",
        record="<results>/records/tracking.json",
    log:
        "<logs>/tracking.log",
    benchmark:
        "<benchmarks>/tracking.tsv"
    conda:
        "../envs/tracking.yaml"
    resources:
        **RESOURCES.analysis("tracking"),
    params:
        uri=STUDY["tracking"]["uri"],
        study=STUDY.name,
        code=digest("track_runs"),
    script:
        "../scripts/track_runs.py"
