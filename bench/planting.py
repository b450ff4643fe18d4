"""Plants errors in a copy of a competition, so that an audit's recall and precision can be measured."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from distracted.config import load_data_config
from distracted.data.images import read_rgb

TRUTH = "planted.csv"


@dataclass(frozen=True)
class Dose:
    """Amount of each kind of error.

    Attributes:
        flipped: Share of the images that get a wrong label, drawn at random.
        exact, recompressed: Images that are copied to another subject under another name: byte for byte, or
            at three quarters of their size and JPEG quality 60.
        black: Images that become black, with a sensor's noise.
    """

    flipped: float = 0.03
    exact: int = 10
    recompressed: int = 10
    black: int = 5


def plant(source: Path, target: Path, dose: Dose, *, seed: int) -> pd.DataFrame:
    """Copy a competition and plant errors in the copy.

    Returns:
        One row per error: kind, img, other (the original of a copied image, else ""); it is also kept in the
        copy's planted.csv.
    """
    if (target / TRUTH).is_file():
        return pd.read_csv(target / TRUTH, dtype=str, keep_default_na=False)
    shutil.copytree(source, target, dirs_exist_ok=True)
    rng = np.random.default_rng(seed)
    path = target / str(load_data_config(str(source)).train_list)
    table = pd.read_csv(path, dtype=str)
    images = target / "imgs/train"
    classes, subjects = sorted(table["classname"].unique()), sorted(table["subject"].unique())
    num_flipped = round(dose.flipped * len(table))
    drawn = rng.permutation(len(table))[: num_flipped + dose.exact + dose.recompressed + dose.black]
    parts = np.split(drawn, np.cumsum([num_flipped, dose.exact, dose.recompressed]))
    planted, added = [], []
    for row in parts[0]:
        img, own = table.loc[row, ["img", "classname"]]
        other = str(rng.choice([name for name in classes if name != own]))
        (images / own / img).rename(images / other / img)
        table.loc[row, "classname"] = other
        planted.append(("flipped", img, ""))
    for kind, rows in (("exact", parts[1]), ("recompressed", parts[2])):
        for row in rows:
            subject, classname, img = table.loc[row, ["subject", "classname", "img"]]
            copy = f"{kind}_{img}"
            if kind == "exact":
                shutil.copyfile(images / classname / img, images / classname / copy)
            else:
                image = cv2.cvtColor(read_rgb(images / classname / img), cv2.COLOR_RGB2BGR)
                small = cv2.resize(image, None, fx=0.75, fy=0.75, interpolation=cv2.INTER_AREA)
                cv2.imwrite(str(images / classname / copy), small, [cv2.IMWRITE_JPEG_QUALITY, 60])
            added.append((str(rng.choice([name for name in subjects if name != subject])), classname, copy))
            planted.append((kind, copy, img))
    for row in parts[3]:
        img, classname = table.loc[row, ["img", "classname"]]
        shape = read_rgb(images / classname / img).shape
        noise = np.abs(rng.normal(0, 1.5, shape)).astype(np.uint8)
        cv2.imwrite(str(images / classname / img), noise)
        planted.append(("black", img, ""))
    more = pd.DataFrame(added, columns=["subject", "classname", "img"])
    pd.concat([table, more])[["subject", "classname", "img"]].to_csv(path, index=False)
    truth = pd.DataFrame(planted, columns=["kind", "img", "other"])
    truth.to_csv(target / TRUTH, index=False)
    return truth
