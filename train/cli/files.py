"""The commands that turn files into others, or read records.

`prepare`, `export`, `import`; `report`, `check`, `publish`. What draws is imported when it is to
draw, as in `train.cli.train`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import jax
import tyro

from train.cli.progress import PrepareDisplay
from train.cli.terminal import NamedRun, console
from train.cli.train import run_folder
from train.data import DataConfig, prepare
from train.host.units import plain
from train.records.check import check_records
from train.records.tuning import is_tuning
from train.run.transfer import export_weights, import_weights
from train.run.weights import read_about

_DATA = DataConfig()


def prepare_command(
    data: Annotated[DataConfig, tyro.conf.arg(name="")] = _DATA, workers: int | None = None
) -> None:
    """Tokenize a source once, into memory-mapped shards.

    Args:
      data: The source, and how it is read.
      workers: Files read at a time, each by a process; by default all cores.
    """
    with PrepareDisplay(console) as display:
        manifest = prepare(data, workers=workers, progress=display.progress, full=True)
    console.print(manifest.summary(), markup=False, highlight=False)


def export_command(
    run: Annotated[Path, tyro.conf.Positional],
    out: Path,
    step: int | None = None,
    unstack: bool = False,
) -> None:
    """Write a run's parameters as safetensors.

    Args:
      run: Folder of the run.
      out: Folder for `model.safetensors` and `model.json`.
      step: Of which checkpoint; by default the newest whole one.
      unstack: A tensor for each layer, as most other libraries have them, instead of one for all
        layers.
    """
    jax.config.update("jax_platforms", "cpu")  # It takes no GPU, should there be one.
    path = export_weights(run, out, step=step, stacked=not unstack)
    about = read_about(path)
    print(f"{path}: {len(about.sha256)} tensors of step {about.step}")


def import_command(config: NamedRun, weights: Path, out: Path | None = None) -> None:
    """Make the folder of a run that begins with given parameters.

    Args:
      config: Named configurations; every setting of one can be overridden.
      weights: What `export` wrote: a `model.safetensors`.
      out: Folder of the run; by default the one that `run` takes.
    """
    jax.config.update("jax_platforms", "cpu")  # Likewise.
    folder = out or run_folder(config)
    import_weights(weights, config, folder)
    print(f"{folder}: begins with {weights}; `run` with the same options trains it")


def report_command(
    paths: Annotated[tuple[Path, ...], tyro.conf.Positional] = (),
    study: Path | None = None,
    out: Path | None = None,
    allow_mixed: bool = False,
) -> None:
    """Write the report of runs, finished or not, a tuning or a study.

    Args:
      paths: A comparison's or a tuning's folder, or any folders and files of runs for one table.
      study: Instead: a study's folder, for one report over all of its comparisons.
      out: Folder of the report; by default `report` in the folder, or one under runs/ for files.
      allow_mixed: Put runs of different data, models, lengths, commits or settings into one table.
    """
    from train.report import comparison_report
    from train.report.study.parts import is_study
    from train.report.study.report import study_report
    from train.report.tuning.report import tuning_report

    terms: dict[str, Any] = {"out": out, "console": console, "allow_mixed": allow_mixed}
    if study is not None:
        study_report(study, **terms)
    elif len(paths) == 1 and is_tuning(paths[0]):
        tuning_report(paths[0], **terms)
    elif len(paths) == 1 and is_study(paths[0]):
        study_report(paths[0], **terms)
    else:
        comparison_report.report(*paths, **terms)


def check_command(paths: Annotated[tuple[Path, ...], tyro.conf.Positional]) -> None:
    """Say what does not hold of records; if anything, with status 1.

    Args:
      paths: Files of records, or folders with such files at any depth.
    """
    checked = check_records(*paths)
    for problem in checked.problems:
        print(plain(problem))
    print(checked)
    sys.exit(1 if checked.problems else 0)


def publish_command(root: Annotated[Path, tyro.conf.Positional] = Path(".")) -> None:
    """Make the tables in README.md and docs/ from results/.

    Args:
      root: The repository.
    """
    from train.report.publish import publish

    for page in publish(root):
        print(page)
