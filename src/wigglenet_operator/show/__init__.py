"""What people and scripts are shown: `plan`, `status` and `diff`. Changes nothing, anywhere."""
