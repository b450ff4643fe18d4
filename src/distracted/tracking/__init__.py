"""W&B. The client would report its own errors to its makers, stack traces with this machine's paths in them:
that is off unless somebody asks for it."""

import os

os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # read when wandb is imported
