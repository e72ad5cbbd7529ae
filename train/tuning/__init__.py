"""Equal tuning budgets: N trials of each optimizer, shared by any number of workers.

Data flows `train.optimizers.search_spaces` (what is tuned) -> `config` (how much, on what) -> `points` (which
trials) -> `queue` (who does which) -> `worker` (`tune`, which has them trained by `trainers`) ->
records, from which `train.report.tuning.report` makes tables and figures.
"""
