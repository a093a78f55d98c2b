"""Functions of one variable: curves x(t) with one or more channels, on [-1, 1] and in units of their standard deviation."""

from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image as Picture
from PIL import ImageDraw
from torch import Tensor

from neuralfield.domains.domain import Domain
from neuralfield.domains.ensembles import Drawn, band, band_scores
from neuralfield.domains.plots import COLOURS, Curve, panel
from neuralfield.errors import NeuralfieldError
from neuralfield.types import Field, Observations

HEIGHT, WIDTH = 96, 144  # pixels of a picture
SHOWN = 3.0  # standard deviations on either side of the mean: every picture has this range, so that curves can be compared
RESOLUTION = 128
"""Samples of a curve where signals share no grid."""
PANELS = 4
"""Panels in a row of completed curves."""


class Function(Domain):
    """Curves whose times lie in [start, end]; `centre` and `scale` hold each channel's mean and standard deviation.

    Inside, coordinates are 2 (t - start) / (end - start) - 1 and values (x - centre) / scale. `times` is the grid that all signals
    share, in the user's units and strictly increasing; None where each has times of its own. `names` are those of the channels.
    With `log`, `centre` and `scale` are of the values' natural logarithms: for positive values whose errors are relative.
    """

    coord_dim = 1
    likelihood = "gaussian"
    headline = "nrmse"
    sides: ClassVar[dict[str, tuple[int, int]]] = {"early": (0, -1), "late": (0, 1), "t": (0, -1), "-t": (0, 1)}

    def __init__(
        self,
        start: float,
        end: float,
        centre: list[float],
        scale: list[float],
        times: list[float] | None = None,
        names: list[str] | None = None,
        log: bool = False,
    ) -> None:
        if not end > start:
            raise NeuralfieldError(f"a function's times must end after they start, got start {start} and end {end}")
        if len(centre) != len(scale) or not all(s > 0 for s in scale):
            raise NeuralfieldError(f"a function needs a centre and a positive scale for each channel, got {centre} and {scale}")
        self.start, self.end, self.times, self.names, self.log = start, end, times, names, log
        self.centre = torch.tensor(centre, dtype=torch.float64)
        self.scale = torch.tensor(scale, dtype=torch.float64)
        self.value_dim = len(scale)

    @property
    def shape(self) -> tuple[int, ...] | None:
        return None if self.times is None else (len(self.times),)

    def grid_shape(self, resolution: int | None = None) -> tuple[int, ...]:
        if resolution is None:
            return self.shape or (RESOLUTION,)
        if resolution < 1:
            raise NeuralfieldError(f"a resolution must be at least 1 sample, got {resolution}")
        return (resolution,)

    def grid(self, resolution: int | None = None) -> Float[Tensor, "1 N C"]:
        """The signals' own times, or evenly spaced ones from start to end."""
        if resolution is None and self.times is not None:
            return self.coords_of(self.times)[None]
        (count,) = self.grid_shape(resolution)
        return torch.linspace(-1, 1, count)[None, :, None] if count > 1 else torch.zeros(1, 1, 1)

    # between the user's units and those inside; in float64, because times may be Unix seconds

    def coords_of(self, times: Any) -> Float[Tensor, "*N 1"]:
        """Coordinates, as a field takes them, of times in the user's units."""
        times = torch.as_tensor(times, dtype=torch.float64)
        return (2 * ((times - self.start) / (self.end - self.start)) - 1).float()[..., None]

    def times_of(self, coords: Float[Tensor, "*N 1"]) -> Float[Tensor, "*N"]:
        """Times in the user's units, float64: those of the own grid exactly, others to the seven digits that coordinates have."""
        if self.times is not None and coords.shape[-2:] == (len(self.times), 1) and torch.equal(coords.cpu(), self.grid()[0]):
            return torch.tensor(self.times, dtype=torch.float64)
        length = self.end - self.start
        times = self.start + (coords[..., 0].double().cpu() + 1) / 2 * length
        return rounded(times, torch.tensor(length, dtype=torch.float64))

    def normalised(self, values: Any) -> Float[Tensor, "*N V"]:
        """Values as a field gives them, of values in the user's units."""
        values = torch.as_tensor(values, dtype=torch.float64)
        return (((values.log() if self.log else values) - self.centre) / self.scale).float()

    def values_of(self, normalised: Float[Tensor, "*N V"]) -> Float[Tensor, "*N V"]:
        """Values in the user's units, float64."""
        values = normalised.double().cpu() * self.scale + self.centre
        return values.exp() if self.log else values

    def values_at(self, field: Field, times: Any) -> Float[Tensor, "B N V"]:
        """Values of a field at `times` [N], both in the user's units."""
        return self.values_of(field(self.coords_of(times)))

    @property
    def columns(self) -> tuple[list[str], list[str]]:
        numbered = [f"x{channel}" for channel in range(self.value_dim)]
        return ["t"], self.names or (["x"] if self.value_dim == 1 else numbered)

    def in_units(self, coords: Float[Tensor, "*N C"], values: Float[Tensor, "*M V"]) -> tuple[Tensor, Tensor]:
        values = self.values_of(values)
        return self.times_of(coords)[..., None], rounded(values, self.scale * values if self.log else self.scale)

    @torch.no_grad()
    def score(
        self, field: Field, truth: Observations, samples: Float[Tensor, "S B N V"] | None = None
    ) -> dict[str, Float[Tensor, " B"]]:
        """`rmse` over points and channels in the user's units; `nrmse` is the same in standard deviations of each channel.

        With samples also `crps` and `width90` in the user's units, and `coverage90`. A signal of which nothing is known has no
        score: NaN.
        """
        predicted, truth = field(truth.coords).cpu(), truth.to("cpu")
        values = self.values_of(truth.values)

        def root_mean_square(errors: Tensor) -> Float[Tensor, " B"]:
            return ((errors.square() * truth.weight[..., None]).sum((1, 2)) / truth.observed).sqrt().float()

        scores = {"rmse": root_mean_square(self.values_of(predicted) - values), "nrmse": root_mean_square(predicted - truth.values)}
        return scores if samples is None else scores | band_scores(self.values_of(samples), values, truth.weight)

    @torch.no_grad()
    def panels(
        self,
        observed: Observations,
        hidden: Observations,
        field: Field,
        drawn: Drawn | None = None,
        ids: list[str] | None = None,
    ) -> dict[str, UInt8[np.ndarray, "_ height width 3"]]:
        coords = self.grid()
        times, values = self.in_units(coords[0], field(coords))
        low, high = (None, None) if drawn is None else (self.values_of(end) for end in band(drawn.values))
        pages = []
        for b in range(len(observed)):
            curve = Curve(times[:, 0], values[b], None if low is None else low[b], None if high is None else high[b])
            pages.append(panel(curve, self._points(observed, b), self._points(hidden, b), self.columns[1], ids[b] if ids else ""))
        rows = [pages[first : first + PANELS] for first in range(0, len(pages), PANELS)]
        blank = np.full_like(pages[0], 255)
        return {" " * number: np.stack(row + [blank] * (min(PANELS, len(pages)) - len(row))) for number, row in enumerate(rows)}

    def _points(self, observations: Observations, b: int) -> tuple[Tensor, Tensor]:
        """Times and values of what is known of one signal."""
        coords = observations.coords[b if len(observations.coords) > 1 else 0]
        known = observations.weight[b] > 0
        times, values = self.in_units(coords[known], observations.values[b, known])
        return times[:, 0], values

    @torch.no_grad()
    def render(self, field: Field, resolution: int | None = None) -> UInt8[np.ndarray, "B height width 3"]:
        coords = self.grid(resolution)
        values = field(coords).cpu()
        return np.stack([_picture(coords[0, :, 0], curve, line=True) for curve in values])

    def draw(self, observations: Observations) -> UInt8[np.ndarray, "B height width 3"]:
        seen = observations.to("cpu")
        coords = seen.coords.expand(len(seen), -1, -1)[..., 0]
        known = seen.weight > 0
        return np.stack([_picture(t[k], x[k], line=False) for t, x, k in zip(coords, seen.values, known, strict=True)])


def rounded(values: Float[Tensor, "*N"], scale: Float[Tensor, "*M"]) -> Float[Tensor, "*N"]:
    """Values to the seven digits below their scale that float32 knows, so that a table does not show what rounding has added."""
    unit = 10 ** (torch.log10(scale).ceil() - 7)
    return (values / unit).round() * unit


def _picture(coords: Float[Tensor, " N"], values: Float[Tensor, "N V"], line: bool) -> UInt8[np.ndarray, "height width 3"]:
    """One curve on white: a line through its points, or the points alone."""
    page = Picture.new("RGB", (WIDTH, HEIGHT), "white")
    pen = ImageDraw.Draw(page)
    across = ((coords + 1) / 2).clamp(0, 1) * (WIDTH - 7) + 3
    for channel in range(values.shape[1]):
        down = (0.5 - values[:, channel] / (2 * SHOWN)).clamp(0, 1) * (HEIGHT - 7) + 3
        points = list(zip(across.tolist(), down.tolist(), strict=True))
        colour = COLOURS[channel % len(COLOURS)]
        if line and len(points) > 1:
            pen.line(points, fill=colour, width=2)
        else:
            for x, y in points:
                pen.ellipse((x - 1.5, y - 1.5, x + 1.5, y + 1.5), fill=colour)
    return np.array(page)
