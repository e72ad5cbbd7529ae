"""The commands that read records: `report`, `check`, `publish`.

What they draw with is imported when they draw, as in `train.cli.train`.
"""

from __future__ import annotations

import sys
from typing import Any

from train.cli.options import CheckOptions, PublishOptions, ReportOptions
from train.cli.terminal import console, parse
from train.plain_text import plain
from train.records.check import check_records
from train.report.tuning.trials import is_tuning


def report(arguments: list[str]) -> None:
    """write the report of any set of runs"""
    options = parse(ReportOptions, "report", arguments)
    from train.report import comparison_report
    from train.report.study.report import study_report
    from train.report.tuning.report import tuning_report

    terms: dict[str, Any]
    terms = {"out": options.out, "console": console, "allow_mixed": options.allow_mixed}
    if options.study is not None:
        study_report(options.study, **terms)
    elif len(options.paths) == 1 and is_tuning(options.paths[0]):
        tuning_report(options.paths[0], **terms)
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
