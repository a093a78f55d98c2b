"""Values known on a grid, read anywhere between its points."""

from collections.abc import Callable

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import grid_sample

from neuralfield.domains.grid import pixel_centres


def check_readable(shape: tuple[int, ...]) -> None:
    """Refuse grids that `read_grid` cannot read."""
    if len(shape) > 2:
        raise ValueError(f"it reads grids of one or two axes, but the signals lie on one of {len(shape)}: {list(shape)}")


def read_grid(
    values: Float[Tensor, "B N V"], shape: tuple[int, ...], grid: Float[Tensor, "1 N C"], coords: Float[Tensor, "G M C"]
) -> Float[Tensor, "B M V"]:
    """Values of a line, by straight lines, or of an image, by cubic ones; exact at the points of the grid."""
    if len(shape) == 2:
        return read_map(rearrange(values, "b (h w) v -> b v h w", h=shape[0]), coords)
    times = grid[0, :, 0].contiguous()
    return exact(coords, grid, values, lambda: read_line(values, times, coords))


def read_map(maps: Float[Tensor, "B V height width"], coords: Float[Tensor, "G N 2"]) -> Float[Tensor, "B N V"]:
    """Cubic interpolation between pixel centres, exact at the centres, flat beyond the outermost."""

    def read() -> Tensor:
        grid = coords.expand(len(maps), -1, -1)[:, :, None]
        sampled = grid_sample(maps.to(grid), grid, mode="bicubic", padding_mode="border", align_corners=False)
        return rearrange(sampled, "b v n 1 -> b n v")

    centres = pixel_centres(maps.shape[2], maps.shape[3], coords.device)
    return exact(coords, centres, rearrange(maps, "b v h w -> b (h w) v"), read)


def exact(coords: Tensor, places: Tensor, values: Tensor, read: Callable[[], Tensor]) -> Tensor:
    """`values` where the coordinates are the very places of these; else what `read` makes of them.

    Nobody waits for a GPU to say which: there both are computed.
    """
    if coords.shape != places.shape:
        return read()
    if coords.device.type == "cpu":
        return values if torch.equal(coords, places) else read()
    return torch.where((coords == places).all(), values, read())


def read_line(values: Float[Tensor, "B T V"], times: Float[Tensor, " T"], coords: Float[Tensor, "G N 1"]) -> Float[Tensor, "B N V"]:
    """Linear interpolation between rising `times`, exact at each of them, flat beyond the outermost."""
    t = coords[..., 0].contiguous()
    after = torch.searchsorted(times, t).clamp(1, max(1, len(times) - 1))
    if len(times) == 1:
        return values.expand(-1, t.shape[1], -1)
    before = after - 1
    share = ((t - times[before]) / (times[after] - times[before])).clamp(0, 1)[..., None]
    rows = torch.arange(len(values), device=values.device)[:, None]
    low, high = values[rows, before.expand(len(values), -1)], values[rows, after.expand(len(values), -1)]
    # a convex sum, not low + share * (high - low), which misses `high` by rounding where share is 1
    return (1 - share) * low + share * high
