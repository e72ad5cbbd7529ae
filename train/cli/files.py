"""The commands that turn files into others: `prepare`, `export`, `import`."""

from __future__ import annotations

import jax

import train.data as data
from train.cli.options import ExportOptions, ImportOptions, PrepareOptions
from train.cli.progress import PrepareDisplay
from train.cli.terminal import console, parse
from train.cli.train import run_folder
from train.config.run import RunConfig
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
