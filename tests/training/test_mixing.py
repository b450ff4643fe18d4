"""Mixed batches: every pixel and target has the right source, and every draw is repeatable."""

import json
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import TINY, Train
from distracted.config import load_config
from distracted.predictions.store import Store
from distracted.schema import DataConfig, MixingConfig
from distracted.training.mixing import CUTS, Mixer, draw_box, find_partners, share_with_partner
from distracted.training.resolve import resolve

SIZE = 20
EPOCHS = range(60)


def make_mixer(labels: Sequence[int], subjects: Sequence[int] | None = None, **probs: float) -> Mixer:
    """A mixer for images with these labels and subjects; by default each image is a subject of its own."""
    given = {way: {"prob": probs.get(way, 0.0)} for way in ("stitch", "mixup", "cutmix")}
    for way in ("mixup", "cutmix"):
        given[way]["alpha"] = probs.get(f"{way}_alpha", 1.0)
    return Mixer(
        MixingConfig.model_validate(given),
        labels=np.array(labels),
        subjects=np.array(range(len(labels)) if subjects is None else subjects),
        num_classes=max(labels) + 1,
        seed=7,
    )


def flat_images(num: int) -> torch.Tensor:
    """uint8 images of a single value each: 0, 3, 6 ..."""
    values = torch.arange(num, dtype=torch.uint8) * 3
    return values.view(-1, 1, 1, 1).expand(num, SIZE, SIZE, 3).contiguous()


def mix(
    mixer: Mixer, labels: Sequence[int], *, epoch: int = 0, number: int = 1
) -> tuple[torch.Tensor, torch.Tensor]:
    indices = torch.arange(len(labels))
    return mixer(flat_images(len(labels)), torch.tensor(labels), indices, epoch=epoch, number=number)


batches = st.integers(1, 12).flatmap(
    lambda num: st.tuples(
        st.lists(st.integers(0, 2), min_size=num, max_size=num),
        st.lists(st.integers(0, 2), min_size=num, max_size=num),
    )
)


class TestStitch:
    @settings(max_examples=60, deadline=None)
    @given(batches, st.integers(0, 99))
    def test_the_right_part_comes_from_another_subject_of_the_same_class(
        self, batch: tuple[list[int], list[int]], epoch: int
    ) -> None:
        """An image without a partner stays unchanged, as all do where there is a single subject."""
        labels, subjects = batch
        images, targets = mix(make_mixer(labels, subjects, stitch=1.0), labels, epoch=epoch)
        assert images.dtype == torch.uint8 and targets.tolist() == labels
        for number, image in enumerate(images[..., 0]):
            rows = image.unique(dim=0)
            assert len(rows) == 1  # the cut is vertical
            values = [int(value) // 3 for value in rows[0]]
            partners = [
                other
                for other in range(len(labels))
                if labels[other] == labels[number] and subjects[other] != subjects[number]
            ]
            if not partners:
                assert set(values) == {number}
                continue
            cut = values.count(number)
            assert CUTS[0] * SIZE <= cut <= CUTS[1] * SIZE
            assert values[:cut] == [number] * cut
            assert values[cut] in partners and len(set(values[cut:])) == 1

    def test_images_without_subjects_find_partners(self) -> None:
        partners = find_partners(np.array([0, 0, 1, 1]), np.arange(4), np.random.default_rng(0))
        assert partners.tolist() == [1, 0, 3, 2]

    def test_every_possible_partner_is_drawn(self) -> None:
        rng = np.random.default_rng(0)
        seen = Counter(find_partners(np.zeros(4, int), np.array([0, 0, 1, 2]), rng)[0] for _ in range(400))
        assert set(seen) == {2, 3} and min(seen.values()) > 150

    @pytest.mark.parametrize("batch_size", [1, 2, 16, 999])
    def test_the_expected_share_with_partners_is_that_of_random_batches(self, batch_size: int) -> None:
        rng = np.random.default_rng(0)
        labels, subjects = rng.integers(0, 10, 300), rng.integers(0, 5, 300) ** 2
        shares = []
        for _ in range(200):
            rows = rng.permutation(300)[:batch_size]
            partners = find_partners(labels[rows], subjects[rows], rng)
            shares.append(float((partners != np.arange(len(rows))).mean()))
        expected = share_with_partner(labels, subjects, batch_size=batch_size)
        assert np.mean(shares) == pytest.approx(expected, abs=0.03)


class TestMixup:
    @pytest.mark.parametrize("num", [2, 3, 16])
    def test_pixels_and_targets_have_the_same_shares(self, num: int) -> None:
        """Each image has its own class, so the targets show which images were mixed, and how much of each."""
        labels = list(range(num))
        mixer = make_mixer(labels, [0] * num, mixup=1.0)
        partners = []
        for epoch in EPOCHS:
            images, targets = mix(mixer, labels, epoch=epoch)
            np.testing.assert_allclose(targets.sum(dim=1), 1, atol=1e-6)
            assert images.dtype == torch.uint8 and (targets >= 0).all()
            expected = targets @ (3.0 * torch.arange(num))
            assert ((images.double() - expected.view(-1, 1, 1, 1)).abs() <= 0.5 + 1e-4).all()
            partners.append(int(targets.count_nonzero()) - num)
        assert max(partners) == num  # in some batch every image was mixed

    @pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
    def test_the_share_is_drawn_from_beta(self, alpha: float) -> None:
        """Its mean is 1/2, its variance 1/(4(2 alpha + 1)); one draw per batch."""
        labels = list(range(8))
        mixer = make_mixer(labels, mixup=1.0, mixup_alpha=alpha)
        shares = []
        for epoch in range(800):
            _, targets = mix(mixer, labels, epoch=epoch)
            own = targets.diagonal()
            mixed = own[own < 1]
            assert len(mixed.unique()) <= 1
            shares += mixed[:1].tolist()
        assert np.mean(shares) == pytest.approx(0.5, abs=0.05)
        assert np.var(shares) == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.1, abs=0.005)


class TestCutmix:
    @pytest.mark.parametrize("num", [2, 3, 16])
    def test_a_box_keeps_its_place_and_targets_follow_its_area(self, num: int) -> None:
        labels = list(range(num))
        mixer = make_mixer(labels, [0] * num, cutmix=1.0)
        boxed = 0
        for epoch in EPOCHS:
            images, targets = mix(mixer, labels, epoch=epoch)
            np.testing.assert_allclose(targets.sum(dim=1), 1, atol=1e-6)
            boxes = set()
            for number, image in enumerate(images[..., 0].long() // 3):
                shares = torch.bincount(image.flatten(), minlength=num) / SIZE**2
                np.testing.assert_allclose(targets[number], shares, atol=1e-6)
                assert targets[number].count_nonzero() <= 2
                if (inside := image != number).any():
                    rows, columns = inside.any(dim=1).nonzero(), inside.any(dim=0).nonzero()
                    assert inside.sum() == len(rows) * len(columns)
                    boxes.add((int(rows[0]), int(rows[-1]), int(columns[0]), int(columns[-1])))
            assert len(boxes) <= 1
            boxed += len(boxes)
        assert boxed > len(EPOCHS) / 4

    def test_boxes_of_all_sizes_lie_anywhere_in_the_image(self) -> None:
        rng = np.random.default_rng(0)
        boxes = np.array([draw_box(40, 60, 1.0, rng) for _ in range(2000)])
        top, bottom, left, right = boxes.T
        assert (top >= 0).all() and (bottom <= 40).all() and (left >= 0).all() and (right <= 60).all()
        heights, widths = bottom - top, right - left
        assert (heights >= 0).all() and (widths >= 0).all()
        assert heights.max() > 35 and heights.min() == 0
        covered = [
            ((top <= y) & (y < bottom) & (left <= x) & (x < right)).mean() for y, x in [(0, 0), (20, 30)]
        ]
        assert 0.05 < covered[0] < covered[1]


class TestDraws:
    def test_each_way_of_mixing_has_its_configured_frequency(self) -> None:
        """Stitch keeps the targets; mixup makes values that no image had; the rest is cutmix."""
        labels = [0, 0, 1, 1]
        mixer = make_mixer(labels, stitch=0.4, mixup=0.1, cutmix=0.2, mixup_alpha=50, cutmix_alpha=50)
        ways: Counter[str] = Counter()
        for epoch in range(1000):
            images, targets = mix(mixer, labels, epoch=epoch)
            if targets.ndim == 1:
                same = images.equal(flat_images(4))
                ways["none" if same else "stitch"] += 1
            else:
                ways["cutmix" if (images % 3 == 0).all() else "mixup"] += 1
        assert ways["stitch"] / 1000 == pytest.approx(0.4, abs=0.05)
        assert ways["none"] / 1000 == pytest.approx(0.3, abs=0.05)
        # a permutation of four may move none, and some mixed values are multiples of 3, as in cutmix
        assert ways["mixup"] + ways["cutmix"] == pytest.approx(300, abs=50)
        assert 0 < ways["mixup"] < ways["cutmix"]

    @pytest.mark.parametrize("way", ["stitch", "mixup", "cutmix"])
    def test_draws_depend_on_seed_epoch_and_batch_number_alone(self, way: str) -> None:
        labels = [0, 1] * 8

        def draw(epoch: int, number: int) -> bytes:
            images, _ = mix(make_mixer(labels, **{way: 1.0}), labels, epoch=epoch, number=number)
            return images.numpy().tobytes()

        state = torch.get_rng_state()
        assert draw(3, 5) == draw(3, 5)
        assert len({draw(3, 5), draw(3, 6), draw(4, 5), draw(5, 3)}) == 4
        assert torch.get_rng_state().equal(state)

    @pytest.mark.parametrize("way", ["stitch", "mixup", "cutmix"])
    def test_a_batch_of_one_image_stays_unchanged(self, way: str) -> None:
        images, targets = mix(make_mixer([0], **{way: 1.0}), [0])
        assert images.equal(flat_images(1))
        assert targets.flatten().tolist() in ([0], [1.0])  # the id, or the probability


SETTINGS = {
    "stitch": ["mixing.stitch.prob=1"],
    "mixup": ["mixing.mixup.prob=1"],
    "cutmix": ["mixing.cutmix.prob=1"],
    "smoothing": ["training.label_smoothing=0.1"],
    "sampling": ["training.sampling=subjects"],
    "all": [
        "mixing={stitch: {prob: 0.4}, mixup: {prob: 0.3}, cutmix: {prob: 0.3}}",
        "training.label_smoothing=0.1",
        "training.sampling=subjects",
    ],
}


@pytest.mark.slow
class TestTraining:
    @pytest.mark.parametrize(
        "name", [pytest.param(name, marks=() if name == "all" else pytest.mark.slow) for name in SETTINGS]
    )
    def test_each_setting_trains_and_repeats(self, train: Train, name: str) -> None:
        plain, first, again = train(), train(*SETTINGS[name]), train(*SETTINGS[name])
        np.testing.assert_allclose(np.exp(first.valid).sum(axis=1), 1, atol=1e-6)
        assert first.valid.tobytes() == again.valid.tobytes()
        assert first.valid.tobytes() != plain.valid.tobytes()

    @pytest.mark.slow
    def test_the_number_of_workers_changes_no_byte(self, train: Train) -> None:
        settings = [*SETTINGS["all"], "phases.scratch.epochs=2"]
        none, two = (train(*settings, f"runtime.num_workers={number}") for number in (0, 2))
        assert none.valid.tobytes() == two.valid.tobytes()

    def test_labels_of_the_held_out_side_are_never_used(self, train: Train, store: Store) -> None:
        before = train(*SETTINGS["all"])
        rows = store.folds.valid(0)
        store.folds.table.loc[rows, "label"] = (store.folds.labels[rows] + 1) % 3
        assert train(*SETTINGS["all"]).valid.tobytes() == before.valid.tobytes()

    @pytest.mark.slow
    def test_subjects_matter_only_if_they_are_sampled_equally(self, train: Train, store: Store) -> None:
        before = {by: train(f"training.sampling={by}").valid.tobytes() for by in ("rows", "subjects")}
        table = store.folds.table.copy()
        table.loc[store.folds.train(0)[0], "subject"] = "alone"
        store.folds = replace(store.folds, table=table)
        after = {by: train(f"training.sampling={by}").valid.tobytes() for by in ("rows", "subjects")}
        assert after["rows"] == before["rows"]
        assert after["subjects"] != before["subjects"]

    def test_mixing_with_probability_zero_changes_no_byte(self, train: Train) -> None:
        off = ["mixing.mixup.alpha=3", "mixing.cutmix.alpha=3", "training.label_smoothing=0"]
        assert train(*off).valid.tobytes() == train().valid.tobytes()

    def test_bf16_takes_soft_targets(self, train: Train) -> None:
        assert np.isfinite(train("mixing.mixup.prob=1", "training.precision=bf16").valid).all()

    @pytest.mark.slow
    def test_auxiliary_heads_take_soft_targets(self, train: Train) -> None:
        network = ["model.backbone=googlenet", "model.image_size=64", "model.head.auxiliary=0.3"]
        assert np.isfinite(train(*network, *SETTINGS["all"], "training.batch_size=8").valid).all()

    @pytest.mark.slow
    def test_label_smoothing_bounds_the_training_loss_from_below(self, train: Train, tmp_path: Path) -> None:
        """The loss cannot fall below the entropy of smoothed targets; without smoothing it falls lower."""
        learn = ["phases.scratch.epochs=12", "augment.policy=none", "training.batch_size=12"]

        def last_loss(*overrides: str) -> float:
            train(*learn, *overrides)
            lines = (tmp_path / "scratch/metrics.jsonl").read_text().splitlines()
            losses = [line["train/loss"] for line in map(json.loads, lines) if "train/loss" in line]
            return float(losses[-1])

        probs = np.array([0.4, 0.3, 0.3])  # 0.1 for the label, and 0.9 shared by the three classes
        entropy = float(-(probs * np.log(probs)).sum())
        assert last_loss() < entropy < last_loss("training.label_smoothing=0.9")

    def test_the_share_of_images_with_a_partner_is_logged_once(
        self, train: Train, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, logger="distracted")
        train("mixing.stitch.prob=0.5")
        # over 90%: each image has 9 partners among 36
        assert "mixing.stitch: in batches of 16, 9" in caplog.text
        assert "stitch" not in caplog.text.replace("mixing.stitch: in batches", "", 1)

    def test_mixing_without_a_phase_of_kind_train_is_reported_as_without_effect(
        self, data: DataConfig, caplog: pytest.LogCaptureFixture
    ) -> None:
        settings = ["mixing.mixup.prob=0.5", "training.sampling=subjects", "recipe=features"]
        overrides = [
            *(item for item in TINY if not item.startswith("phases.")),
            *settings,
            "phases.features.when=always",
            "phases.scratch=null",
        ]
        resolve(load_config(model="resnet50", data=str(data.folder), overrides=overrides), num_folds=3)
        assert "mixing, training.sampling: without effect, since none of the phases (features)" in caplog.text
