"""The commands that turn files into others: `prepare`, `export`, `import`.

The commands that read records: `report`, `check`, `publish`.

What they draw with is imported when they draw, as in `train.cli.train`.
"""

from __future__ import annotations

import sys
from typing import Any

import jax

import train.data as data
from train.cli.options import (
    CheckOptions,
    ExportOptions,
    ImportOptions,
    PrepareOptions,
    PublishOptions,
    ReportOptions,
)
from train.cli.progress import PrepareDisplay
from train.cli.terminal import console, parse
from train.cli.train import run_folder
from train.config.run import RunConfig
from train.host.units import plain
from train.records.check import check_records
from train.records.tuning import is_tuning
from train.run.transfer import export_weights, import_weights
from train.run.weights import read_about


def prepare(arguments: list[str]) -> None:
    """tokenize a source once, into memory-mapped shards"""
    options = parse(PrepareOptions, "prepare", arguments)
    with PrepareDisplay(console) as display:
        manifest = data.prepare(
            options.data, workers=options.workers, progress=display.progress, full=True
        )
    console.print(manifest.summary(), markup=False, highlight=False)


def export(arguments: list[str]) -> None:
    """write a run's parameters as safetensors"""
    options = parse(ExportOptions, "export", arguments)
    jax.config.update("jax_platforms", "cpu")  # It takes no GPU, should there be one.
    stacked = not options.unstack
    path = export_weights(options.run, options.out, step=options.step, stacked=stacked)
    about = read_about(path)
    print(f"{path}: {len(about.sha256)} tensors of step {about.step}")


def import_(arguments: list[str]) -> None:
    """make a run that begins with given parameters"""
    options = parse(ImportOptions, "import", arguments)
    jax.config.update("jax_platforms", "cpu")  # Likewise.
    config: RunConfig = options.config
    folder = options.out or run_folder(config)
    import_weights(options.weights, config, folder)
    print(f"{folder}: begins with {options.weights}; `run` with the same options trains it")


def report(arguments: list[str]) -> None:
    """write the report of any set of runs"""
    options = parse(ReportOptions, "report", arguments)
    from train.report import comparison_report
    from train.report.study.parts import is_study
    from train.report.study.report import study_report
    from train.report.tuning.report import tuning_report

    terms: dict[str, Any]
    terms = {"out": options.out, "console": console, "allow_mixed": options.allow_mixed}
    if options.study is not None:
        study_report(options.study, **terms)
    elif len(options.paths) == 1 and is_tuning(options.paths[0]):
        tuning_report(options.paths[0], **terms)
    elif len(options.paths) == 1 and is_study(options.paths[0]):
        study_report(options.paths[0], **terms)
    else:
        comparison_report.report(*options.paths, **terms)


def check(arguments: list[str]) -> None:
    """say what does not hold of records"""
    options = parse(CheckOptions, "check", arguments)
    checked = check_records(*options.paths)
    for problem in checked.problems:
        print(plain(problem))
    print(checked)
    sys.exit(1 if checked.problems else 0)


def publish(arguments: list[str]) -> None:
    """make the tables in README and docs/ from results/"""
    options = parse(PublishOptions, "publish", arguments)
    from train.report.publish import publish as publish_pages

    for page in publish_pages(options.root):
        print(page)
