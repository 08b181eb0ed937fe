"""Training: one loop for all methods, the guard, alarms, timing and worker processes."""
