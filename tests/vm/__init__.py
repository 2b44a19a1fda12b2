"""The tests that need a kernel with WireGuard, in a virtual machine that has one: `nox -s vm`."""
