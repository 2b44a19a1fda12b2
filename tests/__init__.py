"""Tests, by what they need: nothing (unit), root (contract, lab, bench)."""
