"""Who takes part in a comparison: an optimizer's settings, under a name of their own.

Two settings of one method, such as Aardvark with and without its clip, can so stand in one table.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from train.optimizers.settings import OptimizerConfig

_LONGEST = 100
"""Letters of a folder's name; file systems take 255 bytes, of which a seed needs some."""


@dataclass(frozen=True)
class Contestant:
    """An optimizer and what tables call it.

    Args:
      optimizer: Its settings.
      title: What tables call it; by default the optimizer's class.
      after: In a ladder, the name of the contestant that it differs from in one thing.

    Raises:
      ValueError: If the title has nothing to name a folder by.

    Example:
      >>> from train.optimizers.settings import AdamW
      >>> Contestant(AdamW()).name, Contestant(AdamW(clip=None), "AdamW, no clip").name
      ('adamw', 'adamw-no-clip')
    """

    optimizer: OptimizerConfig
    title: str = ""
    after: str = ""

    def __post_init__(self) -> None:
        if not self.title:
            object.__setattr__(self, "title", type(self.optimizer).__name__)
        if not 0 < len(self.name) <= _LONGEST:
            raise ValueError(
                f"the title {self.title!r:.80} is not allowed: it names a folder, so it needs a "
                f"letter or digit of a-z and 0-9, and {_LONGEST} at most."
            )

    @property
    def name(self) -> str:
        """The title as folders, records and the command line have it, such as `adamw-no-clip`."""
        return re.sub(r"[^a-z0-9.]+", "-", self.title.lower()).strip("-.")
