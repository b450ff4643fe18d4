"""Part `pixels`: the device computes what the CPU does, within rounding: views and predictions."""

from collections.abc import Iterator

import numpy as np
import torch

from distracted.data.images import read_rgb
from distracted.inference.device_views import DeviceViewer
from distracted.inference.forward import Forward
from distracted.inference.views import VIEWS, Viewer
from gpu_parts.place import Place
from gpu_parts.rows import Row, judged, skipped

_STEEP, _FLAT = 3, 1  # grey levels: where a colour's curve is steep, a rounding of 1 becomes more
#: Largest difference of features as a share of the largest. TF32 would be off by about 1e-3.
_OFF = {"fp32": 2e-4, "bf16": 5e-2, "fp16": 1e-2}


def check_pixels(place: Place) -> Iterator[Row]:
    """Every view of photographs, and features in each precision."""
    yield from _views(place)
    yield from _features(place)


def _views(place: Place) -> Iterator[Row]:
    paths = sorted((place.photographs / "imgs/test").glob("*.jpg"))[: 2 if place.is_short else 8]
    photographs = [read_rgb(path) for path in paths]
    for group, views in VIEWS.items():
        largest, mean = 0, 0.0
        ours = DeviceViewer(views, size=128, crop=0.9)(
            [torch.from_numpy(image).to(place.device) for image in photographs]
        )
        for image, made in zip(photographs, ours.cpu().numpy(), strict=True):
            expected = Viewer(views, size=128, crop=0.9)(image, epoch=0, index=0).reshape(made.shape)
            difference = np.abs(made.astype(int) - expected)
            largest, mean = max(largest, int(difference.max())), max(mean, float(difference.mean()))
        steep = any(view.gamma != 1 or view.contrast != 1 for view in views)
        most = _STEEP if steep else _FLAT
        value = f"at most {largest} of 255 off, {mean:.2g} in the mean"
        is_close = largest <= most and mean < 0.3
        yield judged(f"views: {group}", value, f"at most {most}", is_close, most=largest)


@torch.no_grad()
def _features(place: Place) -> Iterator[Row]:
    what = "features on the device against the CPU's"
    if place.device == "cpu":
        yield skipped(what, "the device is the CPU")
        return
    for model in ("resnet50", "efficientnet_lite0"):
        network = place.phase(model, "model.image_size=128").network.eval()
        images = torch.randint(0, 256, (16, 128, 128, 3), dtype=torch.uint8)
        on_device = {}
        for precision in place.precisions():
            forward = Forward(network, "features", num_images=100_000, precision=precision)
            on_device[precision] = forward(images.to(place.device)).cpu()
        expected = Forward(network.cpu(), "features", num_images=1, precision="fp32")(images)
        for precision, features in on_device.items():
            off = float((features - expected).abs().max() / expected.abs().max())
            most = _OFF[precision]
            yield judged(f"{model}, {precision}: {what}", f"{off:.1g} off", f"at most {most:g}", off <= most)
