"""When: time, tasks and wiring. Decides nothing that `plan` can decide."""
