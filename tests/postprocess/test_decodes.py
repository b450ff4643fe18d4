"""From training to smoothing, a picture is decoded once for each kind of input that is made of it."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from distracted.data import packs
from distracted.inference.views import VIEWS
from distracted.jobs.fold import train_folds
from distracted.postprocess.neighbours import Neighbours
from distracted.postprocess.spaces import own_space
from distracted.postprocess.tta import augment_run
from distracted.predictions.store import Store
from distracted.schema import RunConfig
from distracted.training.resolve import resolve
from untrained import RUNTIME


def counts(decoded: Counter[Path], paths: list[Path]) -> set[int]:
    """How often some pictures were decoded; forgets it."""
    return {decoded.pop(path, 0) for path in paths}


@pytest.mark.slow
def test_folds_and_stages_share_what_is_decoded(
    store: Store,
    configure: Callable[..., RunConfig],
    decoded: Counter[Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(packs, "_has_room", lambda *_: True)  # it decodes 32 pictures, to know their size
    train, test = store.competition.train_paths(), store.competition.test_paths()
    train_folds(store, resolve(configure(), num_folds=3), run="net", folds=range(3))
    assert counts(decoded, test) == {1}  # the network's input
    assert counts(decoded, train) == {2}  # that, and the reduced picture that is augmented
    augment_run(store, run="net", views=VIEWS["five_crops"], runtime=RUNTIME)
    assert counts(decoded, test) == counts(decoded, train) == {1}  # five views of it
    own_space(store, [Neighbours], store.read_run("net"), runtime=RUNTIME)
    assert not decoded
