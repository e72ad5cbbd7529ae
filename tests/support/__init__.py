"""What several tests share."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
"""Of the repository."""


def fast(values: Iterable[Any], *chosen: Any) -> list[Any]:
    """The values for `pytest.mark.parametrize`; all but the chosen ones are slow."""
    slow = pytest.mark.slow
    return [value if value in chosen else pytest.param(value, marks=slow) for value in values]
