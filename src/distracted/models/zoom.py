"""A second, closer look at the part of an image where a network finds the evidence for its class.

The network sees the whole image, reduced, and then a window of the unreduced image around the evidence, as
large in pixels as the reduced image. The place is found by a class activation map (Zhou et al. 2016) of a
linear classifier on the whole image's features, which learns with the network; no boxes are labelled. Fu et
al. 2017 (RA-CNN) and Zhang et al. 2021 (MMAL-Net) look twice in this way; here both looks share one trunk,
and their features are joined before the head, as those of fixed regions are.
"""

import torch
from torch import nn
from torch.nn import functional as F

_FINER = 8  # positions for each one of the feature map, whose cells are large
_BLUR = 1 / 3  # standard deviation of the evidence's blur, as a share of the window's side


class Zoom(nn.Module):
    """Finds the window with the evidence for an image's class.

    Attributes:
        share: Side of the window, as a share of the image's side.
        classifier: Predicts the class from the whole image's features; its weights make the activation map.
    """

    def __init__(self, num_features: int, num_classes: int, share: float) -> None:
        super().__init__()
        self.share = share
        self.classifier = nn.Linear(num_features, num_classes)
        nn.init.zeros_(self.classifier.weight)
        nn.init.zeros_(self.classifier.bias)

    @torch.no_grad()
    def find(self, maps: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """Where to look: the point with the most evidence nearby for the class that the classifier predicts.

        Args:
            maps: The whole images' feature maps, shape (B, C, h, w).
            features: What the trunk makes of them, shape (B, C).

        Returns:
            Vertical and horizontal position as shares of the side, shape (B, 2); the middle where nothing
            speaks for the class.
        """
        weights = self.classifier.weight[self.classifier(features).argmax(1)]
        evidence = torch.einsum("bchw,bc->bhw", maps.float(), weights.float())
        evidence = (evidence - evidence.mean((1, 2), keepdim=True)).clamp_min(0)
        fine = F.interpolate(
            evidence[:, None], scale_factor=float(_FINER), mode="bilinear", align_corners=False
        )
        nearby = self._blur(self._blur(fine).transpose(2, 3)).transpose(2, 3)[:, 0]
        height, width = nearby.shape[1:]
        best = nearby.flatten(1).argmax(1)
        place = torch.stack([(best // width + 0.5) / height, (best % width + 0.5) / width], 1)
        return torch.where(nearby.amax((1, 2)).unsqueeze(1) > 0, place, torch.full_like(place, 0.5))

    def cut(self, images: torch.Tensor, places: torch.Tensor, side: int) -> torch.Tensor:
        """Cut `side` x `side` pixels around a place, or near it at a border, from images (B, 3, H, W)."""
        rows = _window(places[:, 0], images.shape[2], side)[:, None, :, None]
        columns = _window(places[:, 1], images.shape[3], side)[:, None, None, :]
        channels, width = images.shape[1], images.shape[3]  # an export keeps the number of images open
        cut = images.gather(2, rows.expand(-1, channels, -1, width))
        cut = cut.gather(3, columns.expand(-1, channels, side, -1))
        return cut.contiguous(memory_format=torch.channels_last)

    def _blur(self, maps: torch.Tensor) -> torch.Tensor:
        """Blur maps (B, 1, H, W) along the height."""
        sigma = _BLUR * self.share * maps.shape[2]
        reach = int(3 * sigma)
        offsets = torch.arange(-reach, reach + 1, device=maps.device, dtype=maps.dtype)
        weights = torch.exp(-0.5 * (offsets / sigma) ** 2)
        return F.conv2d(maps, (weights / weights.sum()).view(1, 1, -1, 1), padding=(reach, 0))


def reduce(images: torch.Tensor, side: int) -> torch.Tensor:
    """Reduce square images (B, C, S, S) to `side` pixels by area means, as OpenCV does."""
    size = int(images.shape[2])
    edges = torch.arange(side + 1, device=images.device, dtype=torch.float64) * (size / side)
    pixels = torch.arange(size, device=images.device, dtype=torch.float64)
    overlap = torch.minimum(edges[1:, None], pixels + 1) - torch.maximum(edges[:-1, None], pixels)
    weights = (overlap.clamp_min(0) * (side / size)).to(images.dtype)  # (side, S)
    return (weights @ images @ weights.T).contiguous(memory_format=torch.channels_last)


def _window(middle: torch.Tensor, length: int, side: int) -> torch.Tensor:
    """Indices of `side` pixels around a share of a length, shape (B, side)."""
    first = (middle * length - side / 2).round().clamp(0, length - side).long()
    return first[:, None] + torch.arange(side, device=middle.device)
