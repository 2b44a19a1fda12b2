"""What needs nothing: planners, laws, golden files, the agent on fakes and virtual time."""
