"""From tables to figures and one HTML page that needs nothing else.

INPUTS   the tables of all stages, the run records.
OUTPUTS  <results>/tables/*.parquet with CSV twins (every model's tables in one), figures/*.svg, *.pdf and *.csv,
         <results>/report.html.
"""


rule gather:
    input:
        parts=lambda wildcards: GATHERED[wildcards.kind],
    output:
        gathered=report(
            "<results>/tables/{kind}.parquet",
            caption=CAPTIONS.file(CAPTIONS.GATHERED),
            category=lambda wildcards: category(wildcards.kind),
            subcategory="Tables",
            labels=lambda wildcards, output: CAPTIONS.table(
                wildcards.kind, output.gathered
            ),
        ),
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
            subcategory="Findings",
            labels=lambda wildcards, output: CAPTIONS.page(output.report),
        ),
        figures=report(
            directory("<results>/figures"),
            patterns=["{name}.svg"],
            caption=CAPTIONS.file(CAPTIONS.FIGURES),
            category=lambda wildcards, input: CAPTIONS.figure_category(
                wildcards.name, input.chosen
            ),
            subcategory="Figures",
            labels=lambda wildcards, input: CAPTIONS.figure(
                wildcards.name, input.chosen
            ),
        ),
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
            "moemui/report/templates/parts.html.j2",
            "moemui/report/templates/report.css",
            "moemui/report/templates/report.js",
            "moemui/laws/published_figures.csv",
        ),
    script:
        "../scripts/write_report.py"
