"""Figures of an agent beside their floors: `nox -s bench` prints them, no test asserts them by a clock."""
