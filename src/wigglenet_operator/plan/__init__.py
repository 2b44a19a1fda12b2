"""Decide: pure functions from facts and configuration to what should be. No I/O, no clock, no order of arrival."""
