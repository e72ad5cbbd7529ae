"""The commands that train: `run`, `compare`, `tune`, `study`.

Reports are imported where they are drawn: Matplotlib and SciPy take as long as all else together.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable
from functools import partial
from pathlib import Path

import train.experiments.compare as comparing
import train.experiments.tune as tuning_trials
from train.cli.options import CompareOptions, RunOptions, StudyOptions, TuneOptions
from train.cli.progress import RunDisplay
from train.cli.terminal import console, parse
from train.config import named
from train.config.comparison import Comparison
from train.config.plain import config_hash
from train.config.run import RunConfig
from train.experiments.ladders import ladder
from train.experiments.study import run_study
from train.experiments.tuning import Tuning, nano_tuning
from train.experiments.workers import Work, other_workers
from train.host.distributed import init_distributed
from train.host.signals import stopping
from train.host.units import plain, size
from train.inspection.budget import refuse_unless_accepted
from train.inspection.out_of_memory import memory_explained
from train.run.train import train
from train.run.training_clock import Speed
from train.tasks import task_of


def run(arguments: list[str]) -> None:
    """train one configuration"""
    options = parse(RunOptions, "run", arguments)
    stopping.status = options.stop_status
    console.quiet = init_distributed(options.hosts) > 0  # The first process speaks for all.
    stopping.quiet = console.quiet
    config: RunConfig = options.config
    task = task_of(config)
    refuse_unless_accepted(task, config.steps, options.accept_cost)
    folder = options.out or run_folder(config)
    with RunDisplay(console, config.steps) as display, memory_explained(config):
        display.run_started(folder.name)
        final = train(
            config,
            folder,
            task=task,
            on_progress=display.run_progress,
            profile=options.profile,
            track=options.track,
        )
    console.print(
        plain(
            f"{folder}: validation loss {final.val_loss:.4f} nats a token, "
            f"{final.bits_per_byte:.4f} bits a byte, after {final.tokens:,} tokens."
        )
    )
    if final.tokens_per_second is not None and final.peak_bytes is not None:
        speed = Speed(final.tokens_per_second, final.peak_flops, final.mfu)
        formula = f", {task.flops_formula} FLOPs a token" if final.mfu is not None else ""
        console.print(f"{speed}{formula}; {size(final.peak_bytes)} a device.", highlight=False)


def compare(arguments: list[str]) -> None:
    """compare optimizers: tables, figures and a page"""
    preset = named.compare_quick() if "--quick" in arguments else named.compare()
    options = parse(CompareOptions, "compare", arguments, CompareOptions(preset))
    comparison = options.comparison
    if options.ladder is not None:
        comparison = ladder(options.ladder, comparison)
    comparison = _only(comparison, options.only)
    folder = options.out or _default_folder(comparison)
    steps = sum(entry.config.steps for entry in comparison.runs())
    work = partial(comparing.compare, comparison, folder)
    _share_out(work, options.workers, steps)
    from train.report.comparison_report import report

    report(folder, console=console)


def tune(arguments: list[str]) -> None:
    """tune optimizers on equal budgets: N trials each"""
    options = parse(TuneOptions, "tune", arguments, TuneOptions(nano_tuning()))
    tuning = _only_tuned(options.tuning, options.only)
    folder = options.out or _tuning_folder(tuning)
    steps = sum(run.steps for runs in tuning.runs().values() for run in runs)
    work = partial(tuning_trials.tune, tuning, folder, population=options.population)
    _share_out(work, options.workers, steps)
    from train.report.tuning.report import tuning_report

    tuning_report(folder, console=console)


def study(arguments: list[str]) -> None:
    """tune, then compare in every way that the evidence needs"""
    options = parse(StudyOptions, "study", arguments)

    def share_out(name: str, work: Work, steps: int) -> None:
        console.rule(name)
        _share_out(work, options.workers, steps)

    run_study(options.study, options.folder, options.out, share_out=share_out, only=options.only)
    from train.report.study.report import study_report

    study_report(options.out, out=options.folder / "report", console=console)


def run_folder(config: RunConfig) -> Path:
    """Where a run goes that is not told where."""
    return Path("runs") / f"{config.optimizer.key}-{config_hash(config)}"


def _share_out(work: Work, workers: int, steps: int) -> None:
    """Does what several processes share, in this one and in the others that are asked for."""
    with RunDisplay(console, steps) as display, other_workers(work, workers - 1):
        work(display)


def _only(comparison: Comparison, names: tuple[str, ...]) -> Comparison:
    known = [contestant.name for contestant in comparison.contestants]
    _check_known(names, known)
    if not names:
        return comparison
    chosen = tuple(one for one in comparison.contestants if one.name in (known[0], *names))
    return dataclasses.replace(comparison, contestants=chosen)


def _only_tuned(tuning: Tuning, names: tuple[str, ...]) -> Tuning:
    known = {space.optimizer.key: space for space in tuning.spaces}
    _check_known(names, known)
    chosen = tuple(known[name] for name in dict.fromkeys(names)) or tuning.spaces
    return dataclasses.replace(tuning, spaces=chosen)


def _check_known(names: Iterable[str], known: Collection[str]) -> None:
    for name in names:
        if name not in known:
            raise ValueError(f"--only {name}: no such optimizer; choose from {', '.join(known)}.")


def _tuning_folder(tuning: Tuning) -> Path:
    is_nano = tuning == nano_tuning()
    return Path("runs") / ("tune" if is_nano else f"tune-{config_hash(tuning)}")


def _default_folder(comparison: Comparison) -> Path:
    for make in (named.compare, named.compare_quick):
        if comparison == make():
            return Path("runs") / make.__name__
    return Path("runs") / f"compare-{config_hash(comparison)}"
