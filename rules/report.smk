"""From tables to figures and one HTML page that needs nothing else.

INPUTS   the tables of all stages, the run records.
OUTPUTS  <results>/tables/*.parquet with CSV twins (every model's tables in one), figures/*.svg and *.pdf,
         <results>/report.html.
"""


rule gather:
    input:
        parts=lambda wildcards: GATHERED[wildcards.kind],
    output:
        gathered="<results>/tables/{kind}.parquet",
        csv="<results>/tables/{kind}.csv",
        record="<results>/records/tables/{kind}.json",
    log:
        "<logs>/tables/{kind}.log",
    benchmark:
        "<benchmarks>/tables/{kind}.tsv"
    wildcard_constraints:
        kind="|".join(GATHERED),
    conda:
        "../envs/analysis.yaml"
    resources:
        **RESOURCES.analysis("gather"),
    params:
        code=digest("gather_table"),
    script:
        "../scripts/gather_table.py"


rule report:
    input:
        tables=expand("<results>/tables/{name}.parquet", name=REPORTED),
        records=RECORDS,
        chosen=chosen_threshold(),
    output:
        report=report(
            "<results>/report.html",
            caption="captions/report.rst",
            category="Report",
            labels={"what": "findings"},
        ),
        figures=directory("<results>/figures"),
        record="<results>/records/report.json",
    log:
        "<logs>/report.log",
    benchmark:
        "<benchmarks>/report.tsv"
    conda:
        "../envs/analysis.yaml"
    resources:
        **RESOURCES.analysis("report"),
    params:
        study=STUDY.about(),
        code=digest(
            "write_report",
            "moemui/report/templates/report.html.j2",
            "moemui/laws/published_figures.csv",
        ),
    script:
        "../scripts/write_report.py"
