"""Forward passes: devices, features, views, predictions."""

import os

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read by CUDA; needed for repeatable products
