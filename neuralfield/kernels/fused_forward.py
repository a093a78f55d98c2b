"""The fused forward pass, in Triton: one program for a tile of one signal's points, through all layers."""

from typing import no_type_check

import triton
import triton.language as tl

from neuralfield.kernels.fused_parts import COUNTS, activated, conditioned, entered, through


@triton.jit(do_not_specialize=COUNTS)
@no_type_check
def forward(
    values, kept, scratch, inputs, entering, weights, scales, shifts, out_weight, out_bias,
    points, signals, depth, again, inputs_step, conditioning_step,
    FEATURES: tl.constexpr, NARROW: tl.constexpr, VALUES: tl.constexpr, WIDTH: tl.constexpr,
    ACTIVATION: tl.constexpr, SLOPE: tl.constexpr, SCALED: tl.constexpr, AGAIN: tl.constexpr, KEEPS: tl.constexpr,
    DTYPE: tl.constexpr, INTERPRETED: tl.constexpr, TILE: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """values [B, N, V]; kept [L, B, N, WIDTH] are the products W h + U x, without a first one of coordinates.

    Steps lead from one signal to the next, and are 0 where signals share. Bit l of `again` says that inputs enter layer l again.
    """
    tiles = tl.cdiv(points, TILE)
    signal = (tl.program_id(0) // tiles).to(tl.int64)
    begin = ((tl.program_id(0) % tiles) * TILE).to(tl.int64)
    rows, columns = tl.arange(0, TILE), tl.arange(0, WIDTH)  # counted from `begin`, so that 32 bits are enough for blocks
    inside = rows < points - begin
    inputs += signal * inputs_step + begin * FEATURES
    shifts += signal * conditioning_step
    if SCALED:
        scales += signal * conditioning_step
    block = rows[:, None] * WIDTH + columns[None, :]
    start = (signal * points + begin) * WIDTH  # of this tile in what is [B, N, WIDTH]
    layer_step = tl.cast(signals, tl.int64) * points * WIDTH

    product = entered(
        tl.zeros((TILE, WIDTH), tl.float32), inputs, entering, rows, inside, columns, FEATURES, NARROW, WIDTH, DTYPE, INTERPRETED
    )
    if KEEPS and not NARROW:
        tl.store(kept + start + block, product.to(DTYPE), mask=inside[:, None])
    for layer in range(1, depth):
        h = conditioned(product, scales, shifts, (layer - 1) * WIDTH + columns, SCALED)
        h = activated(h, ACTIVATION, SLOPE).to(DTYPE)
        matrix = weights + (layer - 1) * WIDTH * WIDTH
        product = through(h, matrix, scratch + start, rows, inside, columns, 1, WIDTH, WIDTH, CHUNK, INTERPRETED)
        if AGAIN:
            if (again >> layer) & 1:
                product = entered(
                    product, inputs, entering + layer * FEATURES * WIDTH, rows, inside, columns,
                    FEATURES, NARROW, WIDTH, DTYPE, INTERPRETED,
                )  # fmt: skip
        if KEEPS:
            tl.store(kept + (layer - NARROW) * layer_step + start + block, product.to(DTYPE), mask=inside[:, None])
    h = activated(conditioned(product, scales, shifts, (depth - 1) * WIDTH + columns, SCALED), ACTIVATION, SLOPE)
    for v in tl.static_range(VALUES):
        weight = tl.load(out_weight + v * WIDTH + columns)
        value = tl.sum(h * weight[None, :], 1) + tl.load(out_bias + v)
        tl.store(values + (signal * points + begin + rows) * VALUES + v, value, mask=inside)
