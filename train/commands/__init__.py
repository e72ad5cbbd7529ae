"""The commands: each a function of its words, whose docstring is its line in the usage."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from train.cli.files import export, import_, prepare
from train.cli.look import explain, plan
from train.cli.train import compare, run, study, tune
from train.commands.records import check, publish, report
from train.commands.replaying import replay

COMMANDS: Mapping[str, Callable[[list[str]], None]] = MappingProxyType(
    {
        "run": run,
        "compare": compare,
        "tune": tune,
        "study": study,
        "report": report,
        "check": check,
        "publish": publish,
        "prepare": prepare,
        "plan": plan,
        "explain": explain,
        "export": export,
        "import": import_,
        "replay": replay,
    }
)
