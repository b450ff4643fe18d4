"""Large packages are imported in three fifths of their time."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def importing() -> Iterator[None]:
    """Python looks for no garbage while this block imports, nor ever again among what is there at its end.

    Modules stay until the process ends. torch and timm alone make half a million objects, which Python would
    look through many times while it imports them, and again when it ends.
    """
    was_enabled, before = gc.isenabled(), len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if len(sys.modules) > before:  # else what is there may be anything
            gc.freeze()
        if was_enabled:
            gc.enable()
