"""The audit reports planted problems and nothing else, and its files are read back."""

import json
import re
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from distracted.audit import nearest
from distracted.audit.alike import subject_similarity
from distracted.audit.candidates import write_candidates
from distracted.audit.copies import check_exact
from distracted.audit.duplicates import check_near, measure_limits
from distracted.audit.findings import Check, as_findings, read_audit, write_audit, write_unreadable
from distracted.audit.labels import blind_label_issues, check_labels, find_wrong_labels
from distracted.audit.mistakes import score_rows
from distracted.audit.odd_images import check_pictures
from distracted.audit.run import audit_competition
from distracted.audit.scan import differing_bits, perceptual_hash, scan_images, turn, turn_name
from distracted.data.contents import digest_bytes
from distracted.data.drops import without_drops
from distracted.data.images import read_rgb
from distracted.data.jpeg import start_of_scan
from distracted.errors import ConfigError
from distracted.files import sha256_file
from distracted.predictions.store import Store, open_store
from distracted.progress import silent
from distracted.schema import RunConfig, hash_config

WriteRun = Callable[..., None]
PACKAGE = ("model.image_size=64", "runtime.tracking=none", "training.num_folds=3", "runtime.num_workers=0")


def scene(seed: int, size: tuple[int, int] = (120, 160)) -> np.ndarray:
    """An image with structure: random discs on a random gradient."""
    rng = np.random.default_rng(seed)
    height, width = size
    y, x = np.mgrid[:height, :width] / max(size)
    image = np.stack([100 + 80 * (a * x + b * y) for a, b in rng.uniform(-1, 1, (3, 2))], axis=2)
    image = np.ascontiguousarray(np.clip(image, 0, 255).astype(np.uint8))
    for _ in range(6):
        centre = int(rng.integers(width)), int(rng.integers(height))
        colour = tuple(int(v) for v in rng.integers(0, 256, 3))
        cv2.circle(image, centre, int(rng.integers(8, 40)), colour, -1)
    return image


def save(path: Path, image: np.ndarray, quality: int = 95) -> None:
    assert cv2.imwrite(str(path), cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])


@pytest.fixture
def painted(store: Store) -> Store:
    """The tiny competition with a different scene in each image."""
    for number, path in enumerate(store.competition.train_paths() + store.competition.test_paths()):
        save(path, scene(number))
    return reopened(store)


def reopened(store: Store) -> Store:
    """Open the store again after the folder's images have changed."""
    store.workspace.data_binding("tiny").unlink()
    return open_store(store.workspace, store.competition.config, num_folds=3)


def scan(store: Store) -> pd.DataFrame:
    """Scan the training images, then the test images."""
    competition = store.competition
    contents = [*competition.train["content"], *competition.test["content"]]
    return scan_images(competition.train_paths() + competition.test_paths(), contents)


def by_key(checks: list[Check]) -> dict[str, Check]:
    return {check.key: check for check in checks}


class TestScan:
    def test_hashes_survive_resizing_and_differ_between_images(self) -> None:
        images = [scene(seed) for seed in range(20)]
        hashes = np.array([perceptual_hash(image) for image in images], dtype=np.uint64)
        small = [cv2.resize(image, (80, 60), interpolation=cv2.INTER_AREA) for image in images]
        resized = np.array([perceptual_hash(image) for image in small], dtype=np.uint64)
        bits = differing_bits(hashes, resized)
        assert np.diag(bits).max() <= 4
        assert bits[~np.eye(20, dtype=bool)].min() > 8

    def test_a_brighter_picture_has_the_same_hash(self) -> None:
        image = scene(1) // 2
        brighter = image + np.uint8(40)
        assert bin(perceptual_hash(image) ^ perceptual_hash(brighter)).count("1") <= 2

    def test_statistics_are_cached_by_content(self, store: Store, tmp_path: Path) -> None:
        paths, contents = store.competition.train_paths(), store.competition.train["content"].tolist()
        cache = tmp_path / "cache/scan.parquet"
        first = scan_images(paths, contents, cache=cache)
        again = scan_images([tmp_path / "gone"] * len(paths), contents, cache=cache)
        pd.testing.assert_frame_equal(first, again)
        cache.write_bytes(b"damaged")
        pd.testing.assert_frame_equal(first, scan_images(paths, contents, cache=cache))

    def test_a_stopped_scan_is_not_lost(self, store: Store, tmp_path: Path) -> None:
        paths, contents = store.competition.train_paths(), store.competition.train["content"].tolist()
        cache, whole = tmp_path / "scan.parquet", scan_images(paths, contents)

        done: list[int] = []

        def step() -> None:
            done.append(1)
            if len(done) == 5:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            scan_images(paths, contents, cache=cache, progress=lambda *_, **__: nullcontext(step))
        again = scan_images([tmp_path / "gone"] * 5, contents[:5], cache=cache)
        pd.testing.assert_frame_equal(again, whole.iloc[:5])

    def test_an_undecodable_image_is_reported_and_not_cached(self, store: Store, tmp_path: Path) -> None:
        path = tmp_path / "bad.jpg"
        path.write_bytes(b"\xff\xd8\xff\xdb\x00\x04\x00\x00\xff\xda\x00\x02\xff\xd9")
        cache = tmp_path / "scan.parquet"
        scanned = scan_images([path], [digest_bytes(path.read_bytes())], cache=cache)
        assert "bad.jpg" in scanned["error"].iloc[0]
        save(path, scene(0))
        assert scan_images([path], [digest_bytes(path.read_bytes())], cache=cache)["error"].iloc[0] == ""


class TestPictures:
    def test_blank_dark_and_large_images_are_reported(self, painted: Store) -> None:
        paths, test_paths = painted.competition.train_paths(), painted.competition.test_paths()
        for number, path in enumerate(paths + test_paths):
            save(path, scene(0) // 2 + np.uint8(40 + number % 7))
        noise = np.random.default_rng(0).integers(0, 3, (120, 160, 3), dtype=np.uint8)
        save(paths[3], noise)
        save(test_paths[2], 255 - noise)
        save(paths[5], scene(0) // 3)
        save(paths[7], scene(7, size=(240, 320)))
        store = reopened(painted)
        checks = by_key(check_pictures(store, scan(store)))
        train, test = store.competition.train["img"], store.competition.test["img"]
        empty = checks["empty"].findings
        assert empty[["img", "part", "note"]].to_numpy().tolist() == [
            [train[3], "train", "black"],
            [test[2], "test", "white"],
        ]
        assert train[5] in set(checks["odd_light"].findings["img"])
        sizes = checks["odd_size"].findings
        assert sizes[["img", "note"]].to_numpy().tolist() == [[train[7], "320 x 240 pixels"]]
        assert checks["unreadable"].findings.empty

    def test_damaged_odd_and_deep_images_are_reported(self, painted: Store) -> None:
        paths = painted.competition.train_paths()
        whole = paths[2].read_bytes()
        scan_at = start_of_scan(whole)
        cut = whole[: scan_at + (len(whole) - scan_at) // 2] + b"\xff\xd9"
        paths[2].write_bytes(cut)
        at = whole.find(b"\xff\xdb")
        paths[4].write_bytes(whole[:at] + b"\0\0" + whole[at:])
        both = cut[:at] + b"\0\0" + cut[at:]  # the decoder remarks on the harmless bytes only
        painted.competition.test_paths()[1].write_bytes(both)
        deep = scene(3).astype(np.uint16) * 16  # 12 bits
        paths[6].write_bytes(cv2.imencode(".png", deep)[1].tobytes())
        store = reopened(painted)
        checks = by_key(check_pictures(store, scan(store)))
        train, test = store.competition.train["img"], store.competition.test["img"]
        damaged = checks["damaged"].findings
        assert damaged[["img", "part"]].to_numpy().tolist() == [[train[2], "train"], [test[1], "test"]]
        for note in damaged["note"]:
            assert re.fullmatch(r".*premature end of data segment; the last [45]\d% of its rows .*", note)
        assert checks["odd_files"].findings[["img", "note"]].to_numpy().tolist() == [
            [train[4], "Corrupt JPEG data: 2 extraneous bytes before marker 0xdb"]
        ]
        few = checks["few_bits"].findings
        assert few[["img", "note"]].to_numpy().tolist() == [[train[6], "12 of 16 bits"]]
        write_candidates(store, list(checks.values()), None, silent)
        candidates = pd.read_csv(store.workspace.audit("tiny") / "drop_candidates.csv")
        [reason] = candidates.loc[candidates["img"] == train[2], "reason"]
        assert reason.startswith("damaged (")

    def test_clean_data_has_no_findings(self, painted: Store) -> None:
        checks = check_pictures(painted, scan(painted))
        assert [len(check.findings) for check in checks] == [0] * 7


class TestDuplicates:
    def test_copies_are_reported_across_subjects_classes_and_the_test_set(self, painted: Store) -> None:
        train, paths = painted.competition.train, painted.competition.train_paths()
        rows = {}
        for subject in ("p000", "p001"):
            own = train[(train["subject"] == subject) & (train["classname"] == "c0")].index
            rows[subject] = own.tolist()
        first, twin = rows["p000"][0], rows["p001"][0]
        paths[twin].write_bytes(paths[first].read_bytes())  # another subject
        same, same_twin = rows["p000"][1:3]
        paths[same_twin].write_bytes(paths[same].read_bytes())  # the same subject and class
        test_path = painted.competition.test_paths()[0]
        test_path.write_bytes(paths[rows["p001"][2]].read_bytes())
        store = reopened(painted)
        across, within = check_exact(store)
        imgs = store.competition.train["img"]
        pairs = {frozenset(pair) for pair in across.findings[["img", "other"]].to_numpy().tolist()}
        expected = {frozenset((imgs[first], imgs[twin]))}
        expected |= {frozenset((imgs[rows["p001"][2]], store.competition.test["img"][0]))}
        assert pairs == expected
        assert within.findings[["img", "other"]].to_numpy().tolist() == [
            sorted([imgs[same], imgs[same_twin]])
        ]
        assert all(check.findings.empty for check in check_near(store, scan(store)))  # copies are listed once

    @pytest.mark.parametrize("repeating", [["p000"], ["p000", "p003", "p001"]], ids=["few", "many"])
    def test_many_copies_hide_no_leak(self, painted: Store, repeating: list[str]) -> None:
        """Each copy is paired with one in each other fold and one of the test set; lists stay short."""
        train = painted.competition.train
        rows = np.flatnonzero(train["subject"].isin(repeating)).tolist()
        rows += [int(train.index[train["subject"] == subject][-1]) for subject in ("p004", "p005")]
        train_paths, test_paths = painted.competition.train_paths(), painted.competition.test_paths()
        copies = [*(train_paths[row] for row in rows), test_paths[2], test_paths[6]]
        data = copies[0].read_bytes()
        for path in copies:
            path.write_bytes(data)
        store = reopened(painted)
        across, _ = check_exact(store)
        folds = store.folds.table.set_index("img")["fold"].to_dict()  # test images are not in it
        meets: dict[str, set[int]] = {path.name: set() for path in copies}
        for one, other in across.findings[["img", "other"]].to_numpy():
            meets[one].add(folds.get(other, -2))
            meets[other].add(folds.get(one, -2))
        for name, met in meets.items():
            own = folds.get(name, -2)
            assert met - {own} == {0, 1, 2, -2} - {own}
        assert len(across.findings) <= 8 * len(copies)

    def test_many_copies_of_one_file_do_not_come_before_all_others(self, painted: Store) -> None:
        """The report shows the first findings only."""
        paths = painted.competition.train_paths()
        for first in (0, 1, 2):
            for path in paths[first::3]:
                path.write_bytes(paths[first].read_bytes())
        store = reopened(painted)
        across, within = check_exact(store)
        content = store.competition.train.set_index("img")["content"]
        for check in (across, within):
            assert content[check.findings["img"][:3]].nunique() == 3

    def test_the_same_picture_of_one_subject_in_two_classes(self, painted: Store) -> None:
        """A clip's boundary: no leak, but one of the labels is wrong."""
        train, paths = painted.competition.train, painted.competition.train_paths()
        one, other = (
            int(train.index[(train["subject"] == "p002") & (train["classname"] == name)][0])
            for name in ("c0", "c1")
        )
        save(
            paths[other],
            cv2.resize(read_rgb(paths[one]), (120, 90), interpolation=cv2.INTER_AREA),
            quality=60,
        )
        store = reopened(painted)
        leaks, contradictions, turned = check_near(store, scan(store))
        assert leaks.findings.empty and turned.findings.empty
        [finding] = contradictions.findings.to_dict("records")
        assert {finding["img"], finding["other"]} == {train["img"][one], train["img"][other]}
        assert {finding["classname"], finding["other_classname"]} == {"c0", "c1"}
        assert float(finding["value"]) > 0.98

    def test_only_a_shrunk_and_compressed_copy_is_reported(self, painted: Store) -> None:
        train, paths = painted.competition.train, painted.competition.train_paths()
        row, twin = (int(train.index[train["subject"] == subject][0]) for subject in ("p000", "p003"))
        small = cv2.resize(read_rgb(paths[row]), (120, 90), interpolation=cv2.INTER_AREA)
        save(paths[twin], small, quality=60)
        own = int(train.index[train["subject"] == "p000"][1])
        save(paths[own], read_rgb(paths[row]), quality=60)  # of the same subject: no leak
        test_path = painted.competition.test_paths()[4]
        save(test_path, small, quality=70)
        store = reopened(painted)
        check, contradictions, turned = check_near(store, scan(store))
        assert contradictions.findings.empty and turned.findings.empty
        pairs = {frozenset(pair) for pair in check.findings[["img", "other"]].to_numpy().tolist()}
        imgs, test = store.competition.train["img"], store.competition.test["img"]
        shown = {imgs[row], imgs[own]}
        assert pairs == {frozenset((a, b)) for a in shown for b in (imgs[twin], test[4])} | {
            frozenset((imgs[twin], test[4]))
        }
        assert (check.findings["value"].astype(float) > 0.98).all()

    @pytest.mark.parametrize("number", [1, 4, 6])
    def test_a_turned_copy_is_named(self, painted: Store, number: int) -> None:
        train, paths = painted.competition.train, painted.competition.train_paths()
        row, twin = (int(train.index[train["subject"] == subject][0]) for subject in ("p000", "p003"))
        channels = [turn(channel, number) for channel in np.moveaxis(read_rgb(paths[row]), 2, 0)]
        save(paths[twin], np.ascontiguousarray(np.dstack(channels)), quality=60)
        store = reopened(painted)
        leaks, contradictions, turned = check_near(store, scan(store))
        assert leaks.findings.empty and contradictions.findings.empty
        [finding] = turned.findings.to_dict("records")
        assert {finding["img"], finding["other"]} == {train["img"][row], train["img"][twin]}
        inverse = {1: 3, 3: 1}.get(number, number)  # which of the two is turned depends on their order
        assert finding["note"] in (turn_name(number), turn_name(inverse))

    def test_only_the_nearest_of_too_many_pairs_are_compared(
        self, painted: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        train, paths = painted.competition.train, painted.competition.train_paths()
        image = read_rgb(paths[0])
        rows = [int(train.index[train["subject"] == subject][-1]) for subject in ("p001", "p003")]
        near, far = sorted(rows, reverse=True)  # the nearest pair comes last
        save(paths[near], image, quality=96)
        save(paths[far], cv2.resize(image, (80, 60), interpolation=cv2.INTER_AREA), quality=20)
        store = reopened(painted)
        scanned = scan(store)
        monkeypatch.setattr(nearest, "_CHUNK", 2)
        monkeypatch.setattr(nearest, "_MAX_PAIRS", 1)
        check, *_ = check_near(store, scanned)
        assert check.findings[["img", "other"]].to_numpy().tolist() == [
            store.competition.train["img"][[0, near]].tolist()
        ]
        assert "only the nearest 1 are compared" in caplog.text

    def test_many_near_copies_hide_no_leak(self, painted: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        """Each is compared with the nearest of each other fold and of the test set; lists stay short."""
        monkeypatch.setattr(nearest, "_PARTNERS", 1)
        train_paths, test_paths = painted.competition.train_paths(), painted.competition.test_paths()
        copies, image = [*train_paths[::2], *test_paths[:3]], read_rgb(train_paths[0])
        for number, path in enumerate(copies):
            save(path, cv2.resize(image, (150 - number, 120)), quality=60 + number % 30)
        store = reopened(painted)
        check, *_ = check_near(store, scan(store))
        folds = store.folds.table.set_index("img")["fold"].to_dict()  # test images are not in it
        meets: dict[str, set[int]] = {path.name: set() for path in copies}
        for one, other in check.findings[["img", "other"]].to_numpy():
            meets[one].add(folds.get(other, -2))
            meets[other].add(folds.get(one, -2))
        for path in train_paths[::2]:
            own = folds[path.name]
            assert meets[path.name] - {own} == {0, 1, 2, -2} - {own}
        assert len(check.findings) <= 4 * len(copies)

    def test_a_picture_too_long_for_a_jpeg(self, tmp_path: Path) -> None:
        long = np.tile(scene(1, size=(8, 500)), (1, 180, 1))  # 90,000 pixels
        assert cv2.imwrite(str(tmp_path / "long.png"), long)
        limits = measure_limits([tmp_path / "long.png"])
        assert 4 <= limits.bits <= 12 and 0.95 <= limits.similarity <= 1

    def test_black_images_are_not_duplicates(self, painted: Store) -> None:
        for number, path in enumerate(painted.competition.train_paths()[:6]):
            noise = np.random.default_rng(number).integers(0, 3, (120, 160, 3), dtype=np.uint8)
            save(path, noise)
        store = reopened(painted)
        assert all(check.findings.empty for check in check_near(store, scan(store)))

    def test_limits_are_measured_on_the_datas_own_images(self, painted: Store) -> None:
        limits = measure_limits(painted.competition.train_paths())
        assert 4 <= limits.bits <= 8 and 0.97 < limits.similarity < 1


class TestAlike:
    def people(self, num: int, *, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Features that are the sum of a person's vector, a class's vector and noise; labels; subjects."""
        rng = np.random.default_rng(seed)
        subjects, labels = np.repeat(np.arange(num), 12), np.tile(np.repeat(np.arange(3), 4), num)
        by_person, by_class = rng.normal(size=(num, 40)), 3 * rng.normal(size=(3, 40))
        features = by_person[subjects] + by_class[labels] + rng.normal(size=(len(labels), 40))
        return features.astype(np.float32), labels, subjects

    def test_one_person_under_two_names_has_a_high_similarity(self) -> None:
        features, labels, subjects = self.people(12, seed=0)
        split = subjects.copy()
        own = np.flatnonzero(subjects == 4)
        split[own[::2]] = 12
        similarity = subject_similarity(features, labels, split)
        others = similarity[~np.eye(13, dtype=bool)].reshape(13, 12)
        assert similarity[4, 12] > 0.9
        assert np.sort(others.ravel())[-3] < 0.7  # the pair itself occurs twice
        np.testing.assert_allclose(similarity, similarity.T)

    def test_shared_classes_make_nobody_similar(self) -> None:
        features, labels, subjects = self.people(10, seed=1)
        keep = (labels != 0) | (subjects % 2 == 0)  # people with different classes
        similarity = subject_similarity(features[keep], labels[keep], subjects[keep])
        assert np.triu(similarity, 1).max() < 0.8


class TestLabels:
    def test_flipped_labels_are_detected_among_confident_predictions(self) -> None:
        rng = np.random.default_rng(0)
        truth = rng.integers(0, 3, 300)
        probs = np.full((300, 3), 0.02)
        probs[np.arange(300), truth] = 0.96
        labels = truth.copy()
        flipped = rng.permutation(300)[:9]
        labels[flipped] = (labels[flipped] + 1) % 3
        assert set(find_wrong_labels(labels, probs)) == set(flipped)
        assert len(find_wrong_labels(truth, probs)) == 0

    def test_a_class_may_be_absent(self) -> None:
        probs = np.array([[0.9, 0.05, 0.05], [0.05, 0.05, 0.9]] * 20)
        labels = np.array([0, 2] * 20)
        assert len(find_wrong_labels(labels, probs)) == 0
        assert len(find_wrong_labels(np.zeros(5, dtype=np.int64), probs[:5])) == 0

    def test_a_wrong_label_is_reported(self, store: Store, write_run: WriteRun) -> None:
        write_run("a", skill=8.0)
        row = int(store.folds.valid(0)[0])
        scored = score_rows(store, store.read_run("a"))
        wrong = (store.folds.labels[row] + 1) % 3
        scored.table.loc[row, "label"] = wrong
        check = check_labels(store, scored)
        assert store.competition.train["img"][row] in set(check.findings["img"])

    def test_rows_of_a_class_that_no_other_fold_shows_are_not_judged(self, store: Store) -> None:
        """Class 2 is in folds 0 and 1 alone: who is blind to one cannot learn it to judge the other."""
        folds = store.folds
        rows = folds.valid(2)
        folds.table.loc[rows, "label"] = folds.labels[rows] % 2
        features = np.eye(3, dtype=np.float32)[folds.labels] * 4
        suspicious = dict(blind_label_issues(features, folds))
        assert not {2} & {*folds.labels[suspicious[0]], *folds.labels[suspicious[1]]}

    def test_the_list_for_a_fold_does_not_depend_on_the_fold(self, store: Store) -> None:
        """Other labels and images in a fold leave its list unchanged."""
        rng = np.random.default_rng(0)
        labels = store.folds.labels
        features = (np.eye(3)[labels] * 4 + rng.normal(size=(len(labels), 3))).astype(np.float32)
        before = {fold: rows.tolist() for fold, rows in blind_label_issues(features, store.folds)}
        assert sorted(before) == [0, 1, 2]
        for fold, rows in before.items():
            assert not set(rows) & set(store.folds.valid(fold))
        held_out = store.folds.valid(1)
        store.folds.table.loc[held_out, "label"] = rng.permutation(labels[held_out])
        features[held_out] = rng.normal(size=(len(held_out), 3))
        after = dict(blind_label_issues(features, store.folds))
        assert after[1].tolist() == before[1]


@pytest.mark.slow
def test_an_audit_is_stored_and_read_back(
    store: Store, configure: Callable[..., RunConfig], write_run: WriteRun
) -> None:
    write_run("a", skill=6.0)
    config = configure(model="efficientnet_lite0", tiny=PACKAGE)
    first = audit_competition(store, config, drops=True)
    kept = read_audit(store)
    assert kept is not None and kept.run == "a" and kept.is_current
    assert [check.key for check in kept.checks] == [check.key for check in first.checks]
    keys = {"unreadable", "empty", "exact_duplicates", "near_duplicates", "alike_subjects", "label_issues"}
    assert keys <= set(by_key(first.checks))
    folder = store.workspace.audit("tiny")
    before = (folder / "findings.json").stat()
    assert audit_competition(store, config, drops=True).made == first.made
    assert (folder / "findings.json").stat() == before  # not written again
    assert audit_competition(store, config).how != first.how
    (folder / "odd_light.csv").unlink()
    (folder / "odd_light.csv").mkdir()  # stops the next one while it writes
    with pytest.raises(OSError):
        audit_competition(store, config, force=True)
    assert read_audit(store) is None  # files of two audits are none
    (folder / "odd_light.csv").rmdir()
    audit_competition(store, config, drops=True, force=True)
    candidates = pd.read_csv(folder / "drop_candidates.csv", dtype=str, keep_default_na=False)
    assert list(candidates.columns) == ["img", "reason", "fold"]
    write_run("a", skill=5.0)
    stale = read_audit(store)
    assert stale is not None and not stale.is_current
    (folder / "findings.json").write_text("{")
    assert read_audit(store) is None


def test_random_features_are_an_error(store: Store, configure: Callable[..., RunConfig]) -> None:
    with pytest.raises(ConfigError, match="no pretrained weights"):
        audit_competition(store, configure())


@pytest.mark.slow
def test_labels_are_judged_by_a_run_that_is_current_complete_and_honest(
    store: Store, configure: Callable[..., RunConfig], write_run: WriteRun
) -> None:
    package = configure(model="efficientnet_lite0", tiny=PACKAGE)
    assert audit_competition(store, package).run == ""
    write_run("poor", skill=0.5)
    write_run("good", skill=3.0)
    write_run("part", skill=9.0, folds=(0, 1))
    write_run("leaky", skill=9.0)
    for fold in range(3):
        path = store.workspace.fold("tiny", "leaky", fold) / "manifest.json"
        manifest = json.loads(path.read_text())
        config = {**manifest["config"], "leaky": True}
        path.write_text(json.dumps({**manifest, "config": config, "config_hash": hash_config(config)}))
    assert audit_competition(store, package).run == "good"


def test_unreadable_images_are_named_as_in_the_lists(store: Store) -> None:
    """Where a name is a path, it stays one; and a path may hold a colon."""
    competition = store.competition
    train = competition.train.assign(img="day 1: noon/" + competition.train["img"])
    listed = replace(competition, train=train, train_files=tuple(train["img"]))
    problems = {listed.train_paths()[2]: "day: x: empty", listed.test_paths()[1]: "cut"}
    table = pd.read_csv(write_unreadable(store.workspace, listed, problems), keep_default_na=False)
    assert table[["img", "part", "subject", "classname", "note"]].to_numpy().tolist() == [
        [*train.loc[2, ["img"]], "train", *train.loc[2, ["subject", "classname"]], "day: x: empty"],
        [competition.test["img"][1], "test", "", "", "cut"],
    ]


def test_findings_round_trip_through_csv(store: Store) -> None:
    rows = [{"img": "=cmd|'x'!A1", "note": 'a "b", c\nd'}, {"img": "NA", "value": 0.5}]
    write_audit(store, [Check("some", "t", "a", "note", as_findings(rows))], "", "")
    kept = read_audit(store)
    assert kept is not None
    table = kept.checks[0].findings
    assert table["img"].tolist() == ["=cmd|'x'!A1", "NA"]
    assert table["note"].tolist() == ['a "b", c\nd', ""] and table["value"].tolist() == ["", "0.5"]


def test_a_copy_is_proposed_for_dropping_where_the_other_is_scored(painted: Store) -> None:
    """If the candidates become the drop list, no copy is trained on while another is scored."""
    train, paths = painted.competition.train, painted.competition.train_paths()
    copies = [int(train.index[train["subject"] == subject][0]) for subject in ("p000", "p001", "p002")]
    for row in copies[1:]:
        paths[row].write_bytes(paths[copies[0]].read_bytes())
    store = reopened(painted)
    write_candidates(store, check_exact(store), None, silent)
    path = store.workspace.audit("tiny") / "drop_candidates.csv"
    update = {"drop_list": path, "drops": sha256_file(path)}
    config = store.competition.config.model_copy(update=update)
    competition = replace(store.competition, config=config)
    for fold in range(3):
        trained_on = set(without_drops(competition, store.folds, fold, store.folds.train(fold)).tolist())
        if set(copies) & set(store.folds.valid(fold).tolist()):
            assert not trained_on & set(copies)
