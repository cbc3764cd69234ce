"""Training: state, step, loop, optimizer, schedules, partitioning and checkpoints."""
