"""The hosted workflows, linted."""
