"""A cluster on one machine: a small library, the tests that use it, and the demo."""
