"""Images: grey or colour values over the square [-1, 1]^2, x to the right, y down."""

from typing import Any, ClassVar

import numpy as np
import torch
from einops import rearrange, repeat
from jaxtyping import Float, UInt8
from skimage.metrics import structural_similarity
from torch import Tensor

from neuralfield.domains.domain import Domain
from neuralfield.domains.ensembles import Drawn, band_scores
from neuralfield.domains.grid import pixel_centres
from neuralfield.errors import NeuralfieldError
from neuralfield.types import Field, Observations

PSNR_CAP = 100.0  # dB: an exact copy has infinite PSNR, which is not JSON
SAMPLES_SHOWN = 3
UNSEEN = np.array([90, 110, 160], np.uint8)  # bluish, so that hidden is not mistaken for black or grey


class Image(Domain):
    """Images of one size. Coordinates are pixel centres: x_j = (2j + 1) / width - 1, y_i = (2i + 1) / height - 1."""

    coord_dim = 2
    likelihood = "gaussian"
    headline = "psnr"
    sides: ClassVar[dict[str, tuple[int, int]]] = {"left": (0, -1), "right": (0, 1), "top": (1, -1), "bottom": (1, 1)}

    def __init__(self, height: int, width: int, channels: int = 1) -> None:
        self.height, self.width, self.channels = height, width, channels
        self.value_dim = channels

    @property
    def shape(self) -> tuple[int, int]:
        return self.height, self.width

    def grid_shape(self, resolution: int | None = None) -> tuple[int, int]:
        """(height, width) whose longer side is `resolution`, at the images' own aspect ratio."""
        if resolution is None:
            return self.shape
        if resolution < 1:
            raise NeuralfieldError(f"a resolution must be at least 1 pixel, got {resolution}")
        longer = max(self.shape)
        return max(1, round(self.height * resolution / longer)), max(1, round(self.width * resolution / longer))

    def grid(self, resolution: int | None = None) -> Float[Tensor, "1 N C"]:
        return pixel_centres(*self.grid_shape(resolution))

    @torch.no_grad()
    def score(
        self, field: Field, truth: Observations, samples: Float[Tensor, "S B N V"] | None = None
    ) -> dict[str, Float[Tensor, " B"]]:
        """`mse`, `psnr` in dB for a range of 1, and `ssim` (Wang et al. 2004) where every pixel is known.

        A signal of which nothing is known has no score: NaN.
        """
        truth = truth.to(field.device)
        values = field(truth.coords)
        mse = ((values - truth.values).square() * truth.weight[..., None]).sum((1, 2)) / truth.observed
        scores = {"mse": mse, "psnr": (-10 * torch.log10(mse)).clamp(max=PSNR_CAP)}
        if min(self.shape) >= 3 and bool((truth.weight > 0).all()):
            scores["ssim"] = self._ssim(self._unflatten(values), self._unflatten(truth.values))
        if samples is not None:
            scores |= band_scores(samples, truth.values, truth.weight)
        return scores

    @torch.no_grad()
    def render(self, field: Field, resolution: int | None = None) -> UInt8[np.ndarray, "B height width 3"]:
        values = field(self.grid(resolution))
        return as_picture(rearrange(values, "b (h w) v -> b h w v", h=self.grid_shape(resolution)[0]))

    def draw(self, observations: Observations) -> UInt8[np.ndarray, "B height width 3"]:
        pictures = as_picture(self._unflatten(observations.values))
        seen = rearrange(observations.weight > 0, "b (h w) -> b h w 1", h=self.height).cpu().numpy()
        return np.where(seen, pictures, UNSEEN)

    def panels(
        self,
        observed: Observations,
        hidden: Observations,
        field: Field,
        drawn: Drawn | None = None,
        ids: list[str] | None = None,
    ) -> dict[str, UInt8[np.ndarray, "_ height width 3"]]:
        rows = super().panels(observed, hidden, field, drawn, ids)
        if drawn is None:
            return rows
        samples = {f"sample {s + 1}": self._picture(values) for s, values in enumerate(drawn.fields[:SAMPLES_SHOWN])}
        # deviations of a half, as of a pixel that is black or white, are white
        spread = {"deviation": self._picture(2 * drawn.values.std(0))}
        shown = {"mean" if title == "completion" else title: row for title, row in rows.items()}
        last = {title: shown.pop(title) for title in ("truth",) if title in shown}
        return shown | samples | spread | last

    def _picture(self, values: Float[Tensor, "B N V"]) -> UInt8[np.ndarray, "B height width 3"]:
        return as_picture(self._unflatten(values))

    def _unflatten(self, values: Float[Tensor, "B N V"]) -> Float[Tensor, "B height width V"]:
        return rearrange(values, "b (h w) v -> b h w v", h=self.height)

    def _ssim(self, images: Float[Tensor, "B height width V"], truth: Float[Tensor, "B height width V"]) -> Float[Tensor, " B"]:
        # the paper's 11x11 Gaussian window where it fits, a smaller flat one on tiny images
        side = min(self.shape)
        window: dict[str, Any] = {"gaussian_weights": True, "sigma": 1.5} if side >= 11 else {"win_size": side - (side + 1) % 2}
        pairs = zip(images.cpu().numpy(), truth.cpu().numpy(), strict=True)
        values = [
            structural_similarity(a, b, channel_axis=-1, data_range=1.0, use_sample_covariance=False, **window) for a, b in pairs
        ]
        return torch.tensor(values, dtype=torch.float32)


def as_picture(values: Float[Tensor, "B height width V"]) -> UInt8[np.ndarray, "B height width 3"]:
    """Values in [0, 1] as 8-bit RGB: one channel is grey, a second is shown red/green, a fourth (alpha) is left out."""
    channels = values.shape[-1]
    if channels == 1:
        values = repeat(values, "b h w 1 -> b h w 3")
    elif channels == 2:
        values = torch.cat([values, torch.zeros_like(values[..., :1])], -1)
    return (values[..., :3].clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
