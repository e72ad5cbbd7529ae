"""The options of each command, as frozen dataclasses that tyro reads."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from train.config import named
from train.config.comparison import Comparison
from train.data import DataConfig
from train.experiments.ladders import LadderName
from train.experiments.study import Study
from train.experiments.tuning import Tuning
from train.host.distributed import HostsConfig
from train.run.trackers import TrackerName
from train.step.accelerators import AcceleratorName

_NamedRun = tyro.extras.subcommand_type_from_defaults(
    {name: make() for name, make in named.RUNS.items()},
    {name: inspect.getdoc(make) or name for name, make in named.RUNS.items()},
)


@dataclass(frozen=True)
class RunOptions:
    """Train one configuration; the same command goes on after a stop."""

    config: Annotated[_NamedRun, tyro.conf.arg(name="")]  # type: ignore[valid-type]
    """Named configurations; every setting of one can be overridden."""
    out: Path | None = None
    """Folder of the run; by default one under runs/ that is named by the configuration."""
    accept_cost: bool = False
    """Run a configuration that is known to cost hundreds of device-hours."""
    profile: bool = False
    """Write a trace of a few steps into the run's folder, for xprof or TensorBoard."""
    track: tuple[TrackerName, ...] = ()
    """Tell these of every record too; each needs its package."""
    hosts: HostsConfig = field(default_factory=HostsConfig)
    """The other processes of the run."""
    stop_status: int = 0
    """Exit status after SIGTERM, SIGUSR1 or SIGHUP: not 0 where a launcher would take that for a
    finished run."""


@dataclass(frozen=True)
class CompareOptions:
    """Compare optimizers on equal terms and report; the same command goes on after a stop.

    Called several times at once, on any machines that see the folder, it shares the runs out.
    """

    comparison: Annotated[Comparison, tyro.conf.arg(name="")]
    out: Path | None = None
    """Folder of the comparison; by default one under runs/."""
    quick: bool = False
    """A tenth of the steps."""
    only: tuple[str, ...] = ()
    """Compare these alone with AdamW, the baseline, such as `--only lion aardvark`."""
    ladder: LadderName | None = None
    """Compare the rungs from AdamW to this method instead, each another in one thing."""
    workers: int = 1
    """Processes of this machine that share the runs."""


@dataclass(frozen=True)
class TuneOptions:
    """Tune every optimizer on equal budgets and report; the same command goes on after a stop.

    Called several times at once, on any machines that see the folder, it shares the trials out.
    """

    tuning: Annotated[Tuning, tyro.conf.arg(name="")]
    out: Path | None = None
    """Folder of the tuning; by default one under runs/."""
    only: tuple[str, ...] = ()
    """Tune these alone, such as `--only adamw lion`."""
    workers: int = 1
    """Processes of this machine that share the trials."""
    population: int = 1
    """Trials that a process trains at a time, in one compiled program."""


@dataclass(frozen=True)
class StudyOptions:
    """Tune, then compare at the settings found: over tokens, rates, texts, sizes and ablations.

    The same command goes on after a stop; called several times at once, it shares the runs out.
    """

    study: Annotated[Study, tyro.conf.arg(name="")] = field(default_factory=Study)
    folder: Path = Path("runs/study")
    """Where the runs go."""
    out: Path = Path("results/study")
    """Where their records go, one file for each part."""
    only: tuple[str, ...] = ()
    """Run these parts alone, after the tuning, such as `--only tokens-400 rates`."""
    workers: int = 1
    """Processes of this machine that share the runs."""


@dataclass(frozen=True)
class ReportOptions:
    """Write the tables and figures of runs that are there, finished or not."""

    paths: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()
    """A comparison's, a tuning's or a study's folder, or folders and files for one table."""
    study: Path | None = None
    """A study's folder, where it is not recognized as one when it is given as a path."""
    out: Path | None = None
    """Folder of the report; by default `report` in the folder, or one under runs/ for files."""
    allow_mixed: bool = False
    """Put runs of different data, models, lengths, commits or settings into one table."""


@dataclass(frozen=True)
class CheckOptions:
    """Say what does not hold of records: a line for each thing, and exit status 1."""

    paths: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Files of records, or folders with such files at any depth."""


@dataclass(frozen=True)
class PublishOptions:
    """Make the tables in README.md and docs/ from the records in results/."""

    root: Annotated[Path, tyro.conf.Positional] = Path(".")
    """The repository."""


@dataclass(frozen=True)
class PrepareOptions:
    """Tokenize a source once; what a stop leaves finished is not done again."""

    data: Annotated[DataConfig, tyro.conf.arg(name="")] = field(default_factory=DataConfig)
    workers: int | None = None
    """Files read at a time, each by a process; by default all cores."""


@dataclass(frozen=True)
class ExportOptions:
    """Write a run's parameters as safetensors, with checksums; the run may go on meanwhile."""

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of the run."""
    out: Path
    """Folder for `model.safetensors` and `model.json`."""
    step: int | None = None
    """Of which checkpoint; by default the newest whole one."""
    unstack: bool = False
    """A tensor for each layer, as most other libraries have them, instead of one for all layers."""


@dataclass(frozen=True)
class ImportOptions:
    """Make the folder of a run that begins with given parameters; `run` then trains it."""

    config: Annotated[_NamedRun, tyro.conf.arg(name="")]  # type: ignore[valid-type]
    """Named configurations; every setting of one can be overridden."""
    weights: Path
    """What `export` wrote: a `model.safetensors`."""
    out: Path | None = None
    """Folder of the run; by default the one that `run` takes."""


@dataclass(frozen=True)
class PlanOptions:
    """What a run needs, without any device; exit status 1 says that it cannot be had so."""

    config: Annotated[_NamedRun, tyro.conf.arg(name="")]  # type: ignore[valid-type]
    """Named configurations; every setting of one can be overridden."""
    device: AcceleratorName = "h100"
    """What it is to run on; --mesh says how many."""
    utilization: float = 0.3
    """The part of the devices' peak to count on."""
    reported_hours: float | None = None
    """Device-hours that were reported for such a run: tells whether they are possible."""
    target: Path | None = None
    """XLA's description of the device, such as benchmarks/h100_target.txtpb: compile for it
    instead of estimating the activations. Needs JAX's CUDA plugin, and no GPU."""


@dataclass(frozen=True)
class ExplainOptions:
    """What an optimizer will do to each part of a model, and where the part will live."""

    config: Annotated[_NamedRun, tyro.conf.arg(name="")]  # type: ignore[valid-type]
    """Named configurations; every setting of one can be overridden."""
    json: bool = False
    """For programs instead of people."""


@dataclass(frozen=True)
class ReplayOptions:
    """Train a run up to one of its steps again, and show what was in it; changes nothing."""

    folder: Annotated[Path, tyro.conf.Positional]
    """The run's, finished or not."""
    step: int
    """Which step, the first being 1."""
    json: bool = False
    """For programs instead of people."""
