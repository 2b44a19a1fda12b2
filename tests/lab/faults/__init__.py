"""Fault injection: `fault.py` explains how to write a fault; the other modules hold faults, what tests expect of them, or both.

`node`, `agent`, `cluster` and `api_server` are acts, by what they change.  `data_path` and `problems` are tables of faults with
expectations: lost packets and time until recovery, and reported problems.  `reports` reads where a problem is reported.
"""
