"""The command line: `python -m train run|compare|report|prepare|plan`.

Each command is a frozen dataclass of options, read by tyro, and a function. What a user can mend (a
`ValueError`) ends as one sentence and exit status 2, never as a traceback.
"""

from __future__ import annotations

import dataclasses
import inspect
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import jax
import tyro
from rich.console import Console

from train import configs
from train.accelerators import AcceleratorName
from train.budget import refuse_unless_accepted
from train.compare import compare
from train.config import Comparison, RunConfig, config_hash
from train.data import DataConfig, prepare
from train.display import RunDisplay
from train.distributed import HostsConfig, init_distributed
from train.interrupts import Interrupted
from train.loop import StuckError, train
from train.optimizer_configs import key
from train.plan import make_plan
from train.plan_table import plan_table
from train.report import report
from train.report.units import size
from train.speed import speed_of

console = Console()
T = TypeVar("T")

_NamedRun = tyro.extras.subcommand_type_from_defaults(
    {name: make() for name, make in configs.RUNS.items()},
    {name: inspect.getdoc(make) or name for name, make in configs.RUNS.items()},
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
    hosts: HostsConfig = field(default_factory=HostsConfig)
    """The other processes of the run."""
    stop_status: int = 0
    """Exit status after SIGTERM: not 0 where a launcher would take that for a finished run."""


@dataclass(frozen=True)
class CompareOptions:
    """Compare optimizers on equal terms and report; the same command goes on after a stop."""

    comparison: Annotated[Comparison, tyro.conf.arg(name="")]
    out: Path | None = None
    """Folder of the comparison; by default one under runs/."""
    quick: bool = False
    """A tenth of the steps."""
    only: tuple[str, ...] = ()
    """Compare these alone with AdamW, the baseline, such as `--only lion aardvark`."""


@dataclass(frozen=True)
class ReportOptions:
    """Write the tables and figures of a comparison that was run before, finished or not."""

    folder: Annotated[Path, tyro.conf.Positional]
    """The comparison's folder."""
    out: Path | None = None
    """Folder of the report; by default `report` in the comparison's."""
    allow_mixed: bool = False
    """Put runs of different data, models or lengths into one table."""


@dataclass(frozen=True)
class PlanOptions:
    """What a run needs, without any device; exit status 1 says that it does not fit."""

    config: Annotated[_NamedRun, tyro.conf.arg(name="")]  # type: ignore[valid-type]
    """Named configurations; every setting of one can be overridden."""
    device: AcceleratorName = "h100"
    """What it is to run on; --mesh says how many."""
    utilization: float = 0.3
    """The part of the devices' peak to count on."""
    target: Path | None = None
    """XLA's description of the device, such as benchmarks/h100_target.txtpb: compile for it
    instead of estimating the activations. Needs JAX's CUDA plugin, and no GPU."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command; exits with 0, 1 (stuck), 2 (wrong input) or 130 (Ctrl-C)."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    commands: dict[str, Callable[[list[str]], None]]
    commands = {
        "run": _run,
        "compare": _compare,
        "report": _report,
        "prepare": _prepare,
        "plan": _plan,
    }
    if not arguments or arguments[0] not in commands:
        _explain(commands, asked=arguments[:1] in (["--help"], ["-h"]), wrong=arguments[:1])
    # Compiled programs are kept between calls: a resumed run starts at once.
    jax.config.update("jax_compilation_cache_dir", str(Path("cache/jax").absolute()))
    try:
        commands[arguments[0]](arguments[1:])
    except Interrupted as stop:
        _stopped(stop)
    except KeyboardInterrupt:
        console.print("[yellow]stopped.[/] The same command goes on from the last checkpoint.")
        sys.exit(130)
    except StuckError as error:
        _fail("stuck", error, status=1)
    except ValueError as error:
        _fail("error", error, status=2)


def _run(arguments: list[str]) -> None:
    """train one configuration"""
    options = _parse(RunOptions, "run", arguments)
    console.quiet = init_distributed(options.hosts) > 0  # The first process speaks for all.
    config: RunConfig = options.config
    refuse_unless_accepted(config, options.accept_cost)
    folder = options.out or Path("runs") / f"{key(config.optimizer)}-{config_hash(config)}"
    try:
        with RunDisplay(console, config.steps) as display:
            display.run_started(folder.name)
            final = train(config, folder, on_progress=display.run_progress, profile=options.profile)
    except Interrupted as stop:
        _stopped(stop, options.stop_status)
    console.print(
        f"{folder}: validation loss {final.val_loss:.4f} nats a token, "
        f"{final.bits_per_byte:.4f} bits a byte, after {final.tokens:,} tokens."
    )
    memory = f"{size(final.peak_bytes)} a device" if final.peak_bytes else "memory unknown"
    console.print(f"{speed_of(config, final)}; {memory}.", highlight=False)


def _compare(arguments: list[str]) -> None:
    """compare optimizers: tables, figures and a page"""
    named = configs.compare_quick() if "--quick" in arguments else configs.compare()
    options = _parse(CompareOptions, "compare", arguments, CompareOptions(named))
    comparison = _only(options.comparison, options.only)
    folder = options.out or _default_folder(comparison)
    runs = comparison.runs()
    with RunDisplay(console, sum(run.steps for run in runs)) as display:
        compare(comparison, folder, display)
    report(folder, console=console)


def _report(arguments: list[str]) -> None:
    """write the report of a comparison"""
    options = _parse(ReportOptions, "report", arguments)
    report(options.folder, out=options.out, console=console, allow_mixed=options.allow_mixed)


def _prepare(arguments: list[str]) -> None:
    """tokenize a source once, into memory-mapped shards"""
    config = _parse(DataConfig, "prepare", arguments)
    with console.status("reading documents") as status:
        manifest = prepare(
            config,
            progress=lambda documents, size: status.update(
                f"{documents:,} documents, {size / 1e6:,.1f} MB of text"
            ),
        )
    console.print(manifest.summary(), markup=False, highlight=False)


def _plan(arguments: list[str]) -> None:
    """say what a run needs: memory, time, device-hours"""
    options = _parse(PlanOptions, "plan", arguments)
    plan = make_plan(
        options.config, options.device, utilization=options.utilization, target=options.target
    )
    console.print(plan_table(plan))
    sys.exit(0 if plan.fits else 1)


def _parse(options: type[T], command: str, arguments: list[str], default: T | None = None) -> T:
    extra: dict[str, Any] = {} if default is None else {"default": default}
    return tyro.cli(
        options,
        prog=f"python -m train {command}",
        args=arguments,
        config=(tyro.conf.CascadeSubcommandArgs,),
        **extra,
    )


def _only(comparison: Comparison, names: tuple[str, ...]) -> Comparison:
    known = {key(optimizer): optimizer for optimizer in comparison.optimizers}
    for name in names:
        if name not in known:
            raise ValueError(f"--only {name}: no such optimizer; choose from {', '.join(known)}.")
    if not names:
        return comparison
    chosen = [optimizer for name, optimizer in known.items() if name in ("adamw", *names)]
    return dataclasses.replace(comparison, optimizers=tuple(chosen))


def _default_folder(comparison: Comparison) -> Path:
    for make in (configs.compare, configs.compare_quick):
        if comparison == make():
            return Path("runs") / make.__name__
    return Path("runs") / f"compare-{config_hash(comparison)}"


def _explain(
    commands: dict[str, Callable[[list[str]], None]], *, asked: bool, wrong: list[str]
) -> None:
    if wrong and not asked:
        console.print(f"[red]error:[/] there is no command {wrong[0]!r}.", highlight=False)
    console.print("usage: python -m train COMMAND ...\n", highlight=False)
    for name, command in commands.items():
        console.print(f"  {name:<10}{command.__doc__}", highlight=False)
    console.print("\npython -m train COMMAND --help lists a command's options.", highlight=False)
    sys.exit(0 if asked else 2)


def _stopped(stop: Interrupted, after_sigterm: int = 0) -> NoReturn:
    console.print(f"[yellow]{stop}.[/] The same command goes on from there.")
    sys.exit(after_sigterm if stop.signal is signal.SIGTERM else 130)


def _fail(word: str, error: Exception, *, status: int) -> None:
    # Its own console: the message goes to standard error, whatever the output is piped to.
    Console(stderr=True).print(f"[red]{word}:[/]", str(error), markup=True, highlight=False)
    sys.exit(status)
