"""A replayed step as tables for people."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from train.inspection.replay import Replay, Row

WORST = 8
"""Rows and layers that are shown; `--json` has them all."""


def replay_tables(replay: Replay) -> Group:
    """What the step saw and did, its worst rows with their text, and its largest gradients."""
    return Group(_verdict(replay), _norms(replay), _layers(replay), _rows(replay))


def _verdict(replay: Replay) -> str:
    origin = f"from checkpoint {replay.started_from}" if replay.started_from else "from the start"
    lines = [
        f"[bold]step {replay.step}[/], {origin}: loss {replay.loss:.6g} nats a token, "
        f"gradient norm {replay.grad_norm:.4g}, learning rate {replay.learning_rate:.4g}"
    ]
    if replay.skipped:
        lines.append("[red]skipped[/]: the gradients were not finite, and nothing changed")
    if replay.recorded_loss is None:
        lines.append("the run has recorded no loss of this step")
    elif replay.is_exact:
        lines.append("[green]exact[/]: the recorded loss to the last bit")
    else:
        apart = abs(replay.loss - replay.recorded_loss)
        lines.append(
            f"[red]not the recorded loss[/], which is {replay.recorded_loss:.6g}: {apart:.2g} apart"
        )
        lines += [f"  {escape(difference)}" for difference in replay.differences]
    return "\n".join(lines)


def _norms(replay: Replay) -> Table:
    table = _table("layer type", "gradient", "update", "parameters")
    for layer_type, norm in replay.grad_norms.items():
        others = (replay.update_norms[layer_type], replay.param_norms[layer_type])
        table.add_row(layer_type, *(f"{number:.4g}" for number in (norm, *others)))
    return table


def _layers(replay: Replay) -> Table:
    table = _table("layer", "gradient")
    for name, norm in list(replay.layers.items())[:WORST]:
        table.add_row(escape(name), f"{norm:.4g}")
    return table


def _rows(replay: Replay) -> Table:
    table = _table("row", "loss", "worst token")
    table.add_column("where")
    table.add_column("the text up to the worst token", overflow="fold")
    for row in replay.rows[:WORST]:
        losses = (f"{row.loss:.4g}", f"{row.worst_loss:.4g}")
        table.add_row(str(row.number), *losses, _where(row), escape(repr(row.excerpt)[1:-1]))
    return table


def _where(row: Row) -> str:
    first, *others = row.places
    more = f" and {len(others)} more" if others else ""
    return escape(f"{first.shard} @ {first.offset:,}{more}")


def _table(first: str, *numbers: str) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column(first, no_wrap=True)
    for heading in numbers:
        table.add_column(heading, justify="right")
    return table
