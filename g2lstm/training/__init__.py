"""Training: the loop, tasks, optimisation, checkpoints and tracking."""
