"""The tests are the same on a machine with a GPU: no process of theirs sees one."""

import os
import subprocess
import sys

import torch

from distracted.inference.device import find_device


def test_no_test_sees_a_gpu() -> None:
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
    assert not torch.cuda.is_available() and not torch.backends.mps.is_available()
    assert find_device("auto") == torch.device("cpu")


def test_nor_does_a_process_that_a_test_starts() -> None:
    code = "import os; print(repr(os.environ['CUDA_VISIBLE_DEVICES']))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "''\n"
