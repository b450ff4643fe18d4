"""Contact sheets show the right images in the right places."""

import numpy as np

from distracted.data.augment import cut_region, resize_and_crop
from distracted.data.competition import Competition
from distracted.data.images import read_rgb
from distracted.report.sheets import region_grid


def test_each_region_is_shown_next_to_its_image(competition: Competition) -> None:
    boxes = {"left": (0.0, 0.0, 0.5, 1.0), "low": (0.0, 0.5, 1.0, 1.0)}
    sheet = region_grid(competition, boxes, num_subjects=2, size=60).sheet()
    names, body = sheet[:-120], sheet[-120:]
    assert body.shape == (120, 180, 3) and len(names) > 0
    paths = dict(zip(competition.train["img"], competition.train_paths(), strict=True))
    own = competition.train[competition.train["subject"] == "p000"].sort_values(["classname", "img"])
    first = read_rgb(paths[own["img"].iloc[0]])
    for column, box in enumerate(boxes.values(), start=1):
        expected = resize_and_crop(cut_region(first, box), size=60, crop=1.0)
        assert (body[:60, 60 * column : 60 * (column + 1)] == expected).all()
    red = np.all(body[:60, :60] > (150, -1, -1), axis=2) & np.all(body[:60, :60] < (256, 110, 110), axis=2)
    assert red[:, 30].any() and red[30].any()  # outlines cross the middle of the whole image
