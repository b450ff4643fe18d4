"""Folders laid out as public competitions, with small pictures whose classes can be learned."""

import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

PLANTS, SCENES, XRAYS = ("healthy", "rust", "scab"), ("forest", "sea", "street"), ("normal", "pneumonia")


class Painter:
    """Pictures in which a bright square stands for the class, and the ground for whose picture it is."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)

    def paint(self, path: Path, label: int, *, size: int = 40, ground: int = 60) -> None:
        image = np.full((size, size, 3), ground, np.uint8)
        left = (3, size // 2 - 5, size - 14)[label]
        image[6:20, left : left + 11] = 255
        noisy = np.clip(image + self.rng.normal(0, 6, image.shape), 0, 255).astype(np.uint8)
        path.parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(path), noisy)


def flat_folder(folder: Path, *, num_train: int = 36, num_test: int = 9) -> Path:
    """A list `image_id,label` of numbers, all images in one folder, names of the classes in a JSON file."""
    painter, rows = Painter(1), []
    for number in range(num_train + num_test):
        label, name = number % 3, f"{100000 + 7919 * number}.jpg"
        painter.paint(folder / "images" / name, label, ground=40 + number)
        rows.append((name, label))
    train, test = rows[:num_train], rows[num_train:]
    pd.DataFrame(train, columns=["image_id", "label"]).to_csv(folder / "train.csv", index=False)
    sample = pd.DataFrame({"image_id": [name for name, _ in test], "label": 0})
    sample.to_csv(folder / "sample_submission.csv", index=False)
    (folder / "label_num_to_disease_map.json").write_text(json.dumps(dict(enumerate(PLANTS))))
    return folder


def class_folders(folder: Path, *, num_each: int = 12, num_test: int = 9) -> Path:
    """No list: a folder for each class, the same names in each, and a folder of test images."""
    painter = Painter(2)
    for label, name in enumerate(SCENES):
        for number in range(num_each):
            painter.paint(folder / "train" / name / f"{number:03}.jpg", label, ground=40 + number)
    for number in range(num_test):
        painter.paint(folder / "test" / f"{number:03}.jpg", number % 3, ground=50 + number)
    return folder


def patients(folder: Path, *, num_patients: int = 8, num_each: int = 5, num_test: int = 8) -> Path:
    """A list with patients; PNGs in nested folders; ids without ending; one probability is asked for."""
    painter, rows = Painter(3), []
    for patient in range(num_patients):
        for number in range(num_each):
            label, img = (patient + number) % 2, f"XR{patient:02}{number:03}"
            painter.paint(
                folder / "train" / f"site{patient % 2}" / f"{img}.png", label, ground=20 + 15 * patient
            )
            rows.append((img, f"P{patient:03}", 40 + patient, ("f", "m")[patient % 2], XRAYS[label]))
    columns = ["image_id", "patient_id", "age", "sex", "diagnosis"]
    pd.DataFrame(rows, columns=columns).to_csv(folder / "train_list.csv", index=False)
    test = [f"XT{number:05}" for number in range(num_test)]
    for number, img in enumerate(test):
        painter.paint(folder / "test" / f"{img}.png", number % 2, ground=150)
    pd.DataFrame({"id": test, "probability": 0.5}).to_csv(folder / "sample_submission.csv", index=False)
    return folder


def write_images(folder: Path, names: Sequence[str], label: int = 0) -> None:
    """Small pictures of one class."""
    painter = Painter(4)
    for number, name in enumerate(names):
        painter.paint(folder / name, label, size=24, ground=30 + number % 100)
