"""People in unlabelled images are counted, but only where features separate people."""

from collections.abc import Callable

import numpy as np
import pytest

from distracted.errors import ConfigError, DataError
from distracted.files import write_json
from distracted.postprocess.people import PeopleCount, count_people, count_test_people, read_test_people
from distracted.predictions.store import Store
from distracted.schema import RunConfig
from distracted.submission.expect import expect_run
from distracted.training.resolve import resolve

WriteRun = Callable[..., None]


def people(num: int, *, num_images: int, apart: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    subjects = np.repeat(np.arange(num), num_images)
    centres = apart * rng.normal(size=(num, 32))
    return (centres[subjects] + rng.normal(size=(len(subjects), 32))).astype(np.float32), subjects


def test_well_separated_people_are_counted_whatever_their_number_of_images() -> None:
    train, subjects = people(20, num_images=15, apart=3, seed=0)
    for num, num_images in ((33, 15), (33, 6), (8, 40)):
        test, _ = people(num, num_images=num_images, apart=3, seed=1)
        count = count_people(train, subjects, test)
        assert abs(count.people - num) <= 0.1 * num
        assert count.trusted and count.error < 1.1


def test_a_count_is_not_trusted_where_features_do_not_separate_people() -> None:
    train, subjects = people(20, num_images=15, apart=0, seed=0)
    test, _ = people(40, num_images=15, apart=0, seed=1)
    assert not count_people(train, subjects, test).trusted


def test_a_count_is_trusted_where_known_people_are_counted_and_separated() -> None:
    assert PeopleCount(10, (0.5, 2.0), 1.0).error == pytest.approx(2.0)  # they do not cancel
    assert PeopleCount(10, (1.0, 1.1), 0.9).trusted
    assert not PeopleCount(10, (1.0, 1.1), 0.3).trusted
    assert not PeopleCount(10, (0.5, 2.0), 0.9).trusted


def test_the_forecast_uses_the_count_of_this_data(store: Store, write_run: WriteRun) -> None:
    write_run("a")
    path = store.workspace.test_people("tiny")
    data = {"backbone": "x", "index_hash": store.competition.index_hash}
    kept = {"people": 5, "ratios": [1.0, 1.1], "agreement": 0.9, **data}
    write_json(path, kept)
    expected = expect_run(store, store.read_run("a"))
    assert (expected.num_test_subjects, expected.counted) == (5, "estimated")
    write_json(path, {**kept, "index_hash": "of other data"})
    assert read_test_people(store) is None
    assert expect_run(store, store.read_run("a")).counted == "assumed"
    for damaged in ({"people": -4}, {"people": None}, {"ratios": []}, {"ratios": [-1.0]}, {"agreement": "x"}):
        write_json(path, {**kept, **damaged})
        assert read_test_people(store) is None
    path.write_text("damaged")
    assert read_test_people(store) is None


def test_people_are_counted_once(
    store: Store, configure: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    resolved = resolve(
        configure(model="efficientnet_lite0", tiny=["model.image_size=64", "runtime.num_workers=0"]),
        num_folds=3,
    )
    counts = iter([PeopleCount(4, (1.0, 1.1), 0.9), PeopleCount(5, (1.0,), 1.0)])
    monkeypatch.setattr("distracted.postprocess.people.count_people", lambda *features: next(counts))
    first = count_test_people(store, resolved)
    assert count_test_people(store, resolved) == first and read_test_people(store) == 4
    assert count_test_people(store, resolved, force=True).people == 5
    assert read_test_people(store) == 5


def test_a_network_without_pretrained_weights_is_refused(
    store: Store, configure: Callable[..., RunConfig]
) -> None:
    with pytest.raises(ConfigError, match="MODEL: test_resnet has no pretrained weights here"):
        count_test_people(store, resolve(configure(), num_folds=3))


def test_too_few_subjects_are_refused(store_with: Callable[[dict[str, int]], Store]) -> None:
    store = store_with({f"p{subject:03}": subject % 3 for subject in range(6)})
    competition = store.competition
    table = competition.train.assign(subject="p000")
    object.__setattr__(competition, "train", table)
    with pytest.raises(DataError, match=r"1 training subjects are too few .*expected 6 or more"):
        count_test_people(store, None)  # type: ignore[arg-type]
