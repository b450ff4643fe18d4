"""The parts of `make gpu-check`; each yields rows of its table."""
