"""From run records to MLflow, where runs are looked at.

INPUTS   the record of every job of the study (<results>/records/).
OUTPUTS  one MLflow run for each record, and <results>/tracking.json, which says which run is which record's.

Records are the truth: a lost tracking database is filled again by `snakemake --forcerun tracking`.
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
        mem_mb=1500,
    params:
        uri=STUDY["tracking"]["uri"],
        study=STUDY.name,
        code=digest("track_runs"),
    script:
        "../scripts/track_runs.py"
