"""What is trained: initial parameters, loss and batches behind one interface."""

from __future__ import annotations

from train.config.run import Experiment
from train.tasks.language_model import language_model
from train.tasks.task import Task

__all__ = ["Task", "task_of"]


def task_of(experiment: Experiment) -> Task:
    """The task that a configuration describes, the same for all of its optimizers and seeds."""
    return language_model(experiment)
