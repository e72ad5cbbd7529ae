"""The commands that train: `run`, `compare`, `tune`, `study`.

Reports are imported where they are drawn: Matplotlib and SciPy take as long as all else together.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import tyro

from train.cli.progress import RunDisplay
from train.cli.terminal import NamedRun, console
from train.config import named
from train.config.comparison import Comparison
from train.config.plain import config_hash
from train.config.run import RunConfig
from train.experiments.compare import compare
from train.experiments.ladders import LadderName, climb
from train.experiments.study import Study, run_study
from train.experiments.tuning import Tuning, nano_tuning, tune
from train.experiments.workers import Work, other_workers
from train.host.distributed import HostsConfig, init_distributed
from train.host.signals import stopping
from train.host.units import plain, size
from train.inspection.budget import refuse_unless_accepted
from train.inspection.out_of_memory import memory_explained
from train.run.trackers import TrackerName
from train.run.train import train
from train.run.training_clock import Speed
from train.tasks import task_of

_ALONE = HostsConfig()
_STUDY = Study()


def run_command(
    config: NamedRun,
    out: Path | None = None,
    accept_cost: bool = False,
    profile: bool = False,
    track: tuple[TrackerName, ...] = (),
    hosts: HostsConfig = _ALONE,
    stop_status: int = 0,
) -> None:
    """Train one configuration; called again, it goes on.

    Args:
      config: Named configurations; every setting of one can be overridden.
      out: Folder of the run; by default one under runs/ that is named by the configuration.
      accept_cost: Run a configuration that is known to cost hundreds of device-hours.
      profile: Write a trace of a few steps into the run's folder, for xprof or TensorBoard.
      track: Tell these of every record too; each needs its package.
      hosts: The other processes of the run.
      stop_status: Exit status after SIGTERM, SIGUSR1 or SIGHUP: not 0 where a launcher would take
        that for a finished run.
    """
    stopping.status = stop_status
    console.quiet = init_distributed(hosts) > 0  # The first process speaks for all.
    stopping.quiet = console.quiet
    task = task_of(config)
    refuse_unless_accepted(task, config.steps, accept_cost)
    folder = out or run_folder(config)
    with RunDisplay(console, config.steps) as display, memory_explained(config):
        display.run_started(folder.name)
        final = train(
            config,
            folder,
            task=task,
            on_progress=display.run_progress,
            profile=profile,
            track=track,
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


def compare_command(
    comparison: Annotated[Comparison, tyro.conf.arg(name="")],
    out: Path | None = None,
    quick: bool = False,
    only: tuple[str, ...] = (),
    ladder: LadderName | None = None,
    workers: int = 1,
) -> None:
    """Compare optimizers on equal terms: tables, figures and a page.

    Called several times at once, on any machines that see the folder, it shares the runs out.

    Args:
      comparison: What to compare.
      out: Folder of the comparison; by default one under runs/.
      quick: A tenth of the steps.
      only: Compare these alone with AdamW, the baseline, such as `--only lion aardvark`.
      ladder: Compare the rungs from AdamW to this method instead, each another in one thing.
      workers: Processes of this machine that share the runs.
    """
    if ladder is not None:
        comparison = climb(ladder, comparison)
    comparison = _only(comparison, only)
    folder = out or _comparison_folder(comparison)
    steps = sum(entry.config.steps for entry in comparison.runs())
    _share_out(partial(compare, comparison, folder), workers, steps)
    from train.report.comparison_report import report

    report(folder, console=console)


def tune_command(
    tuning: Annotated[Tuning, tyro.conf.arg(name="")],
    out: Path | None = None,
    only: tuple[str, ...] = (),
    workers: int = 1,
    population: int = 1,
) -> None:
    """Tune every optimizer on an equal budget of trials.

    Called several times at once, on any machines that see the folder, it shares the trials out.

    Args:
      tuning: What to tune.
      out: Folder of the tuning; by default one under runs/.
      only: Tune these alone, such as `--only adamw lion`.
      workers: Processes of this machine that share the trials.
      population: Trials that a process trains at a time, in one compiled program.
    """
    tuning = _only_tuned(tuning, only)
    folder = out or _tuning_folder(tuning)
    steps = sum(run.steps for runs in tuning.runs().values() for run in runs)
    _share_out(partial(tune, tuning, folder, population=population), workers, steps)
    from train.report.tuning.report import tuning_report

    tuning_report(folder, console=console)


def study_command(
    study: Annotated[Study, tyro.conf.arg(name="")] = _STUDY,
    folder: Path = Path("runs/study"),
    out: Path = Path("results/study"),
    only: tuple[str, ...] = (),
    workers: int = 1,
) -> None:
    """Tune, then compare in every way that the evidence needs.

    The same command goes on after a stop; called several times at once, it shares the runs out.

    Args:
      study: What to study.
      folder: Where the runs go.
      out: Where their records go, one file for each part.
      only: Run these parts alone, after the tuning, such as `--only tokens-400 rates`.
      workers: Processes of this machine that share the runs.
    """

    def share_out(name: str, work: Work, steps: int) -> None:
        console.rule(name)
        _share_out(work, workers, steps)

    run_study(study, folder, out, share_out=share_out, only=only)
    from train.report.study.report import study_report

    study_report(out, out=folder / "report", console=console)


def presets(command: str, arguments: list[str]) -> dict[str, Any]:
    """What a command changes the settings of, where that is not the same for every call."""
    match command:
        case "compare":
            quick = "--quick" in arguments
            return {"comparison": named.compare_quick() if quick else named.compare()}
        case "tune":
            return {"tuning": nano_tuning()}
        case _:
            return {}


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
    chosen = tuple(c for c in comparison.contestants if c.name in (known[0], *names))
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


def _comparison_folder(comparison: Comparison) -> Path:
    for make in (named.compare, named.compare_quick):
        if comparison == make():
            return Path("runs") / make.__name__
    return Path("runs") / f"compare-{config_hash(comparison)}"
