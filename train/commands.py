"""The commands: each a function of its words, whose docstring is its line in the usage."""

from __future__ import annotations

import dataclasses
import json
import signal
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn, TypeVar

import jax
import tyro
from rich.console import Console

from train import configs
from train.budget import refuse_unless_accepted
from train.check_records import check_records
from train.compare import compare
from train.config import Comparison, RunConfig, config_hash
from train.data import prepare
from train.display import PrepareDisplay, RunDisplay
from train.distributed import init_distributed
from train.explain import explain
from train.explain_table import explanation_tables
from train.interrupts import Interrupted
from train.ladders import ladder
from train.loop import train
from train.optimizer_configs import key
from train.options import (
    CheckOptions,
    CompareOptions,
    ExplainOptions,
    PlanOptions,
    PrepareOptions,
    PublishOptions,
    ReportOptions,
    RunOptions,
    StudyOptions,
    TuneOptions,
)
from train.plan import make_plan
from train.plan_table import plan_table
from train.processes import Work, other_workers
from train.report import report
from train.report.publish import publish
from train.report.study_report import study_report
from train.report.tuning_report import tuning_report
from train.report.tuning_trials import is_tuning
from train.speed import Speed
from train.study import run_study
from train.tuning.config import Tuning, nano_tuning
from train.tuning.worker import tune
from train.units import size

console = Console()
T = TypeVar("T")


def _run(arguments: list[str]) -> None:
    """train one configuration"""
    options = parse(RunOptions, "run", arguments)
    console.quiet = init_distributed(options.hosts) > 0  # The first process speaks for all.
    config: RunConfig = options.config
    refuse_unless_accepted(config, options.accept_cost)
    folder = options.out or Path("runs") / f"{key(config.optimizer)}-{config_hash(config)}"
    try:
        with RunDisplay(console, config.steps) as display:
            display.run_started(folder.name)
            final = train(
                config,
                folder,
                on_progress=display.run_progress,
                profile=options.profile,
                track=options.track,
            )
    except Interrupted as stop:
        stopped(stop, options.stop_status)
    console.print(
        f"{folder}: validation loss {final.val_loss:.4f} nats a token, "
        f"{final.bits_per_byte:.4f} bits a byte, after {final.tokens:,} tokens."
    )
    if final.tokens_per_second is not None and final.peak_bytes is not None:
        speed = Speed(final.tokens_per_second, final.peak_flops, final.mfu)
        console.print(f"{speed}; {size(final.peak_bytes)} a device.", highlight=False)


def _compare(arguments: list[str]) -> None:
    """compare optimizers: tables, figures and a page"""
    named = configs.compare_quick() if "--quick" in arguments else configs.compare()
    options = parse(CompareOptions, "compare", arguments, CompareOptions(named))
    comparison = options.comparison
    if options.ladder is not None:
        comparison = ladder(options.ladder, comparison)
    comparison = _only(comparison, options.only)
    folder = options.out or _default_folder(comparison)
    steps = sum(entry.config.steps for entry in comparison.runs())
    _share_out(partial(compare, comparison, folder), options.workers, steps)
    report(folder, console=console)


def _tune(arguments: list[str]) -> None:
    """tune optimizers on equal budgets: N trials each"""
    options = parse(TuneOptions, "tune", arguments, TuneOptions(nano_tuning()))
    tuning = _only_tuned(options.tuning, options.only)
    folder = options.out or _tuning_folder(tuning)
    steps = sum(run.steps for runs in tuning.runs().values() for run in runs)
    _share_out(partial(tune, tuning, folder, population=options.population), options.workers, steps)
    tuning_report(folder, console=console)


def _study(arguments: list[str]) -> None:
    """tune, then compare in every way that the evidence needs"""
    options = parse(StudyOptions, "study", arguments)

    def share_out(name: str, work: Work, steps: int) -> None:
        console.rule(name)
        _share_out(work, options.workers, steps)

    run_study(options.study, options.folder, options.out, share_out=share_out, only=options.only)
    study_report(options.out, out=options.folder / "report", console=console)


def _report(arguments: list[str]) -> None:
    """write the report of any set of runs"""
    options = parse(ReportOptions, "report", arguments)
    terms: dict[str, Any]
    terms = {"out": options.out, "console": console, "allow_mixed": options.allow_mixed}
    if options.study is not None:
        study_report(options.study, **terms)
    elif len(options.paths) == 1 and is_tuning(options.paths[0]):
        tuning_report(options.paths[0], **terms)
    else:
        report(*options.paths, **terms)


def _check(arguments: list[str]) -> None:
    """say what does not hold of records"""
    options = parse(CheckOptions, "check", arguments)
    checked = check_records(*options.paths)
    for problem in checked.problems:
        print(problem)
    print(checked)
    sys.exit(1 if checked.problems else 0)


def _publish(arguments: list[str]) -> None:
    """make the tables in README and docs/ from results/"""
    options = parse(PublishOptions, "publish", arguments)
    for page in publish(options.root):
        print(page)


def _prepare(arguments: list[str]) -> None:
    """tokenize a source once, into memory-mapped shards"""
    options = parse(PrepareOptions, "prepare", arguments)
    with PrepareDisplay(console) as display:
        manifest = prepare(options.data, workers=options.workers, progress=display.progress)
    console.print(manifest.summary(), markup=False, highlight=False)


def _plan(arguments: list[str]) -> None:
    """say what a run needs: memory, time, device-hours"""
    options = parse(PlanOptions, "plan", arguments)
    jax.config.update("jax_platforms", "cpu")  # It takes no GPU, should there be one.
    plan = make_plan(
        options.config, options.device, utilization=options.utilization, target=options.target
    )
    hours = options.reported_hours
    if hours is not None and not hours > 0:
        raise ValueError(f"--reported-hours {hours} is not allowed: it must be above 0.")
    console.print(plan_table(plan, hours))
    possible = hours is None or plan.implied_utilization(hours) <= 1
    sys.exit(0 if plan.fits and possible else 1)


def _explain(arguments: list[str]) -> None:
    """show a model's layer types and an optimizer's chain"""
    options = parse(ExplainOptions, "explain", arguments)
    explanation = explain(options.config)
    if options.json:
        print(json.dumps(dataclasses.asdict(explanation), indent=2))
    else:
        console.print(explanation_tables(explanation))


def _share_out(work: Work, workers: int, steps: int) -> None:
    """Does what several processes share, in this one and in the others that are asked for."""
    with RunDisplay(console, steps) as display, other_workers(work, workers - 1):
        work(display)


def parse(options: type[T], command: str, arguments: list[str], default: T | None = None) -> T:
    """A command's options from its words; tyro explains what it cannot read, and exits with 2."""
    extra: dict[str, Any] = {} if default is None else {"default": default}
    return tyro.cli(
        options,
        prog=f"python -m train {command}",
        args=arguments,
        config=(tyro.conf.CascadeSubcommandArgs,),
        **extra,
    )


def _only(comparison: Comparison, names: tuple[str, ...]) -> Comparison:
    known = [contestant.name for contestant in comparison.contestants]
    _check_known(names, known)
    if not names:
        return comparison
    chosen = tuple(one for one in comparison.contestants if one.name in (known[0], *names))
    return dataclasses.replace(comparison, contestants=chosen)


def _only_tuned(tuning: Tuning, names: tuple[str, ...]) -> Tuning:
    known = {key(space.optimizer): space for space in tuning.spaces}
    _check_known(names, known)
    chosen = tuple(known[name] for name in dict.fromkeys(names)) or tuning.spaces
    return dataclasses.replace(tuning, spaces=chosen)


def _check_known(names: Iterable[str], known: Collection[str]) -> None:
    for name in names:
        if name not in known:
            raise ValueError(f"--only {name}: no such optimizer; choose from {', '.join(known)}.")


def _tuning_folder(tuning: Tuning) -> Path:
    named = tuning == nano_tuning()
    return Path("runs") / ("tune" if named else f"tune-{config_hash(tuning)}")


def _default_folder(comparison: Comparison) -> Path:
    for make in (configs.compare, configs.compare_quick):
        if comparison == make():
            return Path("runs") / make.__name__
    return Path("runs") / f"compare-{config_hash(comparison)}"


def stopped(stop: Interrupted, after_sigterm: int = 0) -> NoReturn:
    """Says where the run stopped, and ends with the status that a launcher expects."""
    console.print(f"[yellow]{stop}.[/] The same command goes on from there.")
    sys.exit(after_sigterm if stop.signal is signal.SIGTERM else 130)


COMMANDS: Mapping[str, Callable[[list[str]], None]] = MappingProxyType(
    {
        "run": _run,
        "compare": _compare,
        "tune": _tune,
        "study": _study,
        "report": _report,
        "check": _check,
        "publish": _publish,
        "prepare": _prepare,
        "plan": _plan,
        "explain": _explain,
    }
)
