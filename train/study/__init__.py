"""A study: a tuning, then the comparisons that its settings are judged by."""

from train.experiments.study import Study
from train.study.run import run_study

__all__ = ["Study", "run_study"]
