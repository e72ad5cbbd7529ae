"""Populations: runs that differ only in numbers and seeds, trained together by one program.

A run of a small model leaves most of a device idle and compiles for longer than it trains. Members
of a population share both: `members` says in what they may differ, `program` compiles the steps of
all of them, and `train` gives each the folder and the records that it would have alone.
"""

from train.run.population.members import populations
from train.run.population.program import PopulationProgram, build_population
from train.run.population.train import train_population

__all__ = ["PopulationProgram", "build_population", "populations", "train_population"]
