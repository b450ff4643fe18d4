"""Tracking with Weights & Biases (W&B).

Its client sends its own crashes, with this machine's paths in the stack traces, to its makers. This is off
unless the user turns it on.
"""

import os

os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # read when wandb is imported
