"""What the two papers print, for the tables to stand beside: single runs without intervals."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from operator import attrgetter

from train.report.table import Column, Table, show_number


@dataclass(frozen=True)
class PaperRow:
    """One optimizer's numbers as printed; None where the paper prints none."""

    paper: str
    optimizer: str
    val_loss: float
    train_loss: float | None = None
    gpu_hours: float | None = None
    peak_gigabytes: float | None = None


# StratOpt paper, section 5; Aardvark paper, Table 1. Both: 134M parameters, FineWeb, rate 3e-4.
RESULTS = (
    PaperRow("StratOpt", "AdamW", 4.927),
    PaperRow("StratOpt", "StratOpt", 5.209),
    PaperRow("StratOpt", "AdEMAMix", 5.424),
    PaperRow("Aardvark", "AdamW", 4.927, 4.815, 19.8, 19.1),
    PaperRow("Aardvark", "Aardvark", 4.958, 4.843, 20.1, 19.3),
    PaperRow("Aardvark", "Lion", 6.114, 5.892, 18.2, 18.7),
)

# Aardvark paper, Table 2: "gradient norms by layer type (final training step)".
GRADIENT_NORMS = {"embedding": 0.47, "attention": 0.82, "mlp": 0.65, "head": 1.12}

PAPERS_RATE = 3e-4  # peak learning rate of all of these
PARAMETERS = 134_000_000  # of the model that all of these were measured on


def papers_table() -> Table:
    """What the papers print for the same columns."""
    return Table(
        key="papers",
        title="As printed in the papers",
        caption=(
            "StratOpt paper, section 5; Aardvark paper, Table 1. 134M parameters, FineWeb, rate "
            "3e-4; single runs without intervals. Other data, size and tokens than here: for "
            "orientation, not for comparison with the numbers above."
        ),
        columns=(
            Column("Paper", lambda row: row.paper, is_text=True),
            Column("Optimizer", lambda row: row.optimizer, is_text=True),
            *(
                Column(title, attrgetter(name), partial(show_number, show=form.format))
                for title, name, form in (
                    ("Val. loss", "val_loss", "{:.3f}"),
                    ("Train loss", "train_loss", "{:.3f}"),
                    ("GPU hours", "gpu_hours", "{:.1f}"),
                    ("Peak memory", "peak_gigabytes", "{:.1f} GB"),
                )
            ),
        ),
        rows=RESULTS,
        printed_rows=len(RESULTS),
    )
