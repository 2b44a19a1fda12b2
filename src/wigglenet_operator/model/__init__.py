"""Words: frozen values that facts, plans and the kernel have in common. Standard library only, no I/O, no clock."""
