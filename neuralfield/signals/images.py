"""Images of one size held in memory, 8 bit where they came so."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from neuralfield.devices import sent
from neuralfield.domains.grid import pixel_centres
from neuralfield.errors import NeuralfieldError, NeuralfieldWarning, UsageError
from neuralfield.registry import nearest
from neuralfield.signals.signals import Signals
from neuralfield.types import Observations

SPLITS = ("train", "test")


class Images(Signals):
    """`pixels` [n, height, width, channels]: uint8 means value / 255; floats are taken as they are, finite values only."""

    domain = "image"
    ids: list[str]
    held: ClassVar[tuple[str, ...]] = ("pixels", "coords")

    def __init__(
        self,
        pixels: UInt8[Tensor, "n h w v"] | Float[Tensor, "n h w v"],
        ids: list[str] | None = None,
        labels: Int[Tensor, " n"] | None = None,
        pad: int = 0,
    ) -> None:
        self.ids = ids if ids is not None else [str(i) for i in range(len(pixels))]
        if len(self.ids) != len(pixels) or (labels is not None and len(labels) != len(pixels)):
            raise NeuralfieldError(
                f"{len(pixels)} images came with {len(self.ids)} ids and {'no' if labels is None else len(labels)} labels"
            )
        if pad < 0:
            raise NeuralfieldError(f"signals.pad must be 0 or more pixels, got {pad}")
        if pixels.is_floating_point():
            _refuse_non_finite(pixels, self.ids)
            _warn_out_of_range(pixels)
        self.pixels = torch.nn.functional.pad(pixels, (0, 0, pad, pad, pad, pad))
        self.labels = labels
        self.coords = pixel_centres(*self.pixels.shape[1:3])

    @classmethod
    def from_arrays(
        cls,
        images: np.ndarray,
        ids: list[str] | None = None,
        labels: np.ndarray | None = None,
        pad: int = 0,
        resize: list[int] | int | None = None,
        channels: int | None = None,
    ) -> Self:
        """From numpy `images` [n, h, w] or [n, h, w, channels] and optional whole-number `labels` [n].

        Their channels are converted first (`with_channels`), then their size (`resized`), and the padding comes last.
        """
        if images.ndim not in (3, 4) or 0 in images.shape[1:]:
            raise NeuralfieldError(f"images must have shape [n, h, w] or [n, h, w, channels], got {list(images.shape)}")
        if images.dtype != np.uint8:
            images = _as_float32(images)
        # torch shares memory with the array: copy what is read-only or not contiguous
        pixels = torch.from_numpy(np.require(images if images.ndim == 4 else images[..., None], requirements=["C", "W"]))
        whole = cls(pixels, ids, None if labels is None else torch.from_numpy(labels.astype(np.int64)))
        return cls(resized(with_channels(whole.pixels, channels), resize), whole.ids, whole.labels, pad)

    @property
    def domain_arguments(self) -> dict[str, Any]:
        _, height, width, channels = self.pixels.shape
        return {"height": height, "width": width, "channels": channels}

    def batch(self, index: Int[Tensor, " B"], points: int | None = None, generator: torch.Generator | None = None) -> Observations:
        index = sent(index, self.pixels.device)
        pixels = self.pixels[index]
        values = pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels
        values = rearrange(values, "b h w v -> b (h w) v")
        whole = Observations(index, self.coords, values, torch.ones(values.shape[:2], device=values.device))
        if points is None or points >= values.shape[1]:
            return whole
        return whole.points(torch.randperm(values.shape[1], generator=generator)[:points])

    def select(self, index: Int[Tensor, " m"]) -> "Images":
        labels = None if self.labels is None else self.labels[index]
        return Images(self.pixels[index], [self.ids[i] for i in index.tolist()], labels)


def check_split(split: str) -> None:
    """Refuse a split that no source has; one without splits is `train` and `test` alike."""
    if split not in SPLITS:
        raise UsageError(f'there is no split "{split}"{nearest(split, list(SPLITS))}; the splits are {" and ".join(SPLITS)}')


def split_folder(root: Path, split: str) -> Path:
    """The folder of a split: `root` itself, or its train/ or test/ where it has one of them."""
    if not root.is_dir():
        raise NeuralfieldError(f"there is no file or folder {root}")
    folders = [root / name for name in SPLITS if (root / name).is_dir()]
    folder = root / split if folders else root
    if not folder.is_dir():
        raise NeuralfieldError(f"{root} has {folders[0].name}/ but no {split}/; make that folder, or say --split {folders[0].name}")
    return folder


def with_channels(pixels: Tensor, channels: int | None) -> Tensor:
    """`pixels` [n, h, w, 1 to 4] as 1 (grey), 3 (RGB) or 4 (RGBA) channels, 8 bit staying 8 bit; None leaves them.

    Colour becomes grey by its luma (ITU-R BT.601, as in Pillow). Alpha is left out, not blended; where it is asked for and missing
    it is opaque.
    """
    have = pixels.shape[-1]
    if channels is None or channels == have:
        return pixels
    if channels not in (1, 3, 4) or have > 4:
        raise UsageError(f"signals.channels converts images of 1 to 4 channels to 1, 3 or 4, but not {have} to {channels}")
    colours = have - 1 if have in (2, 4) else have
    opaque = 255 if pixels.dtype == torch.uint8 else 1
    alpha = pixels[..., colours:] if have > colours else torch.full_like(pixels[..., :1], opaque)
    if channels == 1:
        return _by_parts(pixels[..., :colours], _luma)
    colour = pixels[..., :colours].expand(*pixels.shape[:-1], 3)
    return torch.cat([colour, alpha], -1) if channels == 4 else colour


def resized(pixels: Tensor, resize: list[int] | int | None) -> Tensor:
    """`pixels` [n, h, w, v] at size `resize`, [height, width] or one number for both (antialiased bilinear); None leaves them."""
    if resize is None:
        return pixels
    size = list(resize) if isinstance(resize, list | tuple) else [resize, resize]
    if len(size) != 2 or not all(isinstance(side, int) and side > 0 for side in size):
        raise UsageError(f"signals.resize must be one side or [height, width] in whole pixels, got {resize}")
    if size == list(pixels.shape[1:3]):
        return pixels
    return _by_parts(pixels, lambda part: _interpolated(part, size))


def _interpolated(pixels: Float[Tensor, "n h w v"], size: list[int]) -> Float[Tensor, "n height width v"]:
    planes = rearrange(pixels, "n h w v -> n v h w")
    planes = torch.nn.functional.interpolate(planes, size=size, mode="bilinear", align_corners=False, antialias=True)
    return rearrange(planes, "n v h w -> n h w v")


def _luma(colour: Float[Tensor, "n h w c"]) -> Float[Tensor, "n h w 1"]:
    return colour @ torch.tensor([0.299, 0.587, 0.114])[:, None] if colour.shape[-1] == 3 else colour


def _by_parts(pixels: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """`change` as floating point, 1024 images at a time: all of an 8-bit set as floats would take four times its memory."""
    parts = [change(part.float()) for part in torch.split(pixels, 1024)]
    if pixels.dtype == torch.uint8:
        parts = [part.round().to(torch.uint8) for part in parts]
    return torch.cat(parts)


def _as_float32(images: np.ndarray) -> np.ndarray:
    if images.dtype.kind not in "fb":
        raise NeuralfieldError(f"images must be uint8 (0 to 255) or floating point (taken as they are), got {images.dtype}")
    return images.astype(np.float32)


def _refuse_non_finite(pixels: Tensor, ids: list[str]) -> None:
    bad = ~torch.isfinite(pixels)
    if bad.any():
        i, row, column, channel = (int(k) for k in bad.nonzero()[0])
        value = pixels[i, row, column, channel].item()
        count = int(bad.flatten(1).any(1).sum())
        raise NeuralfieldError(
            f"image {ids[i]} has {value} at row {row}, column {column}, channel {channel} ({count} of {len(ids)} images have "
            "values that are not finite); mend or leave them out"
        )


def _warn_out_of_range(pixels: Tensor) -> None:
    """PSNR, SSIM and pictures are for values in [0, 1]; ringing goes a little beyond, another scale goes far."""
    low, high = (float(bound) for bound in pixels.aminmax()) if pixels.numel() else (0.0, 1.0)
    if low < -0.5 or high > 1.5:
        warnings.warn(
            f"image values lie in [{low:.3g}, {high:.3g}], but scores and pictures are for [0, 1]; divide them, or give uint8",
            NeuralfieldWarning,
            stacklevel=3,
        )
