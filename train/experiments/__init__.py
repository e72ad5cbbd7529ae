"""Many runs: comparisons, tuning, studies, ladders and cost sheets."""
