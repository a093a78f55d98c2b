"""The fused backward pass, in Triton: one program takes a tile of one signal's points back through all layers. `outer`: weights."""

from typing import no_type_check

import triton
import triton.language as tl

from neuralfield.kernels.fused_parts import COUNTS, activated, conditioned, dot, entered, steepness, through


@triton.jit(do_not_specialize=COUNTS)
@no_type_check
def backward(
    to_shifts, to_scales, to_inputs, to_entering, to_out, deltas, scratch,
    gradient, kept, inputs, entering, weights, scales, shifts, out_weight,
    points, signals, depth, again, inputs_step, conditioning_step,
    FEATURES: tl.constexpr, NARROW: tl.constexpr, VALUES: tl.constexpr, WIDTH: tl.constexpr,
    ACTIVATION: tl.constexpr, SLOPE: tl.constexpr, SCALED: tl.constexpr, AGAIN: tl.constexpr, TO_INPUTS: tl.constexpr,
    TO_WEIGHTS: tl.constexpr, DTYPE: tl.constexpr, INTERPRETED: tl.constexpr, TILE: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """Sums over a tile's points, [B, tiles, ...]: to_shifts and to_scales [L, WIDTH], to_out [V, WIDTH], to_entering [L, F, WIDTH].

    Of single points: to_inputs [B, N, F], which begins as 0, and deltas [L, B, N, WIDTH], the gradients by what `kept` holds.
    The last three and to_entering (of coordinates alone) are written where asked for.
    """
    program = tl.program_id(0).to(tl.int64)
    tiles = tl.cdiv(points, TILE)
    signal = program // tiles
    begin = ((tl.program_id(0) % tiles) * TILE).to(tl.int64)
    rows, columns = tl.arange(0, TILE), tl.arange(0, WIDTH)  # counted from `begin`, so that 32 bits are enough for blocks
    inside = rows < points - begin
    inputs += signal * inputs_step + begin * FEATURES
    shifts += signal * conditioning_step
    if SCALED:
        scales += signal * conditioning_step
        to_scales += program * depth * WIDTH
    to_shifts += program * depth * WIDTH
    to_inputs += (signal * points + begin) * FEATURES
    to_entering += program * (depth if AGAIN else 1) * FEATURES * WIDTH
    block = rows[:, None] * WIDTH + columns[None, :]
    start = (signal * points + begin) * WIDTH
    layer_step = tl.cast(signals, tl.int64) * points * WIDTH

    delta = tl.zeros((TILE, WIDTH), tl.float32)
    for v in tl.static_range(VALUES):
        g = tl.load(gradient + (signal * points + begin + rows) * VALUES + v, mask=inside, other=0.0).to(tl.float32)
        delta += g[:, None] * tl.load(out_weight + v * WIDTH + columns)[None, :]
    if TO_WEIGHTS:
        if depth == 1 and NARROW:
            product = _first(inputs, entering, rows, inside, columns, FEATURES, WIDTH, TILE, DTYPE, INTERPRETED)
        else:
            product = _held(kept + (depth - 1 - NARROW) * layer_step + start + block, inside)
        h = activated(conditioned(product, scales, shifts, (depth - 1) * WIDTH + columns, SCALED), ACTIVATION, SLOPE)
        for v in tl.static_range(VALUES):
            g = tl.load(gradient + (signal * points + begin + rows) * VALUES + v, mask=inside, other=0.0).to(tl.float32)
            tl.store(to_out + (program * VALUES + v) * WIDTH + columns, tl.sum(g[:, None] * h, 0))
    for step in range(0, depth - 1):
        layer = depth - 1 - step
        product = _held(kept + (layer - NARROW) * layer_step + start + block, inside)
        delta = _pulled(delta, product, to_shifts, to_scales, scales, shifts, layer * WIDTH + columns, ACTIVATION, SLOPE, SCALED)
        if AGAIN:
            if (again >> layer) & 1:
                _to_entries(
                    to_inputs, to_entering + layer * FEATURES * WIDTH, delta, inputs, entering + layer * FEATURES * WIDTH,
                    rows, inside, columns, FEATURES, NARROW, WIDTH, TO_INPUTS, TO_WEIGHTS, DTYPE, INTERPRETED,
                )  # fmt: skip
        if TO_WEIGHTS:
            tl.store(deltas + (layer - NARROW) * layer_step + start + block, delta.to(DTYPE), mask=inside[:, None])
        matrix = weights + (layer - 1) * WIDTH * WIDTH
        delta = through(delta.to(DTYPE), matrix, scratch + start, rows, inside, columns, WIDTH, 1, WIDTH, CHUNK, INTERPRETED)
    if NARROW:  # coordinates are multiplied again: a first product in half precision would be off by .1 radians
        product = _first(inputs, entering, rows, inside, columns, FEATURES, WIDTH, TILE, DTYPE, INTERPRETED)
    else:
        product = _held(kept + start + block, inside)
    delta = _pulled(delta, product, to_shifts, to_scales, scales, shifts, columns, ACTIVATION, SLOPE, SCALED)
    _to_entries(
        to_inputs, to_entering, delta, inputs, entering,
        rows, inside, columns, FEATURES, NARROW, WIDTH, TO_INPUTS, TO_WEIGHTS, DTYPE, INTERPRETED,
    )  # fmt: skip
    if TO_WEIGHTS and not NARROW:
        tl.store(deltas + start + block, delta.to(DTYPE), mask=inside[:, None])


@triton.jit
@no_type_check
def _held(kept, inside):
    return tl.load(kept, mask=inside[:, None], other=0.0).to(tl.float32)


@triton.jit
@no_type_check
def _first(
    inputs, entering, rows, inside, columns,
    FEATURES: tl.constexpr, WIDTH: tl.constexpr, TILE: tl.constexpr, DTYPE: tl.constexpr, INTERPRETED: tl.constexpr,
):  # fmt: skip
    """The first layer's product, of coordinates."""
    zeros = tl.zeros((TILE, WIDTH), tl.float32)
    return entered(zeros, inputs, entering, rows, inside, columns, FEATURES, True, WIDTH, DTYPE, INTERPRETED)


@triton.jit
@no_type_check
def _pulled(
    delta, product, to_shifts, to_scales, scales, shifts, at,
    ACTIVATION: tl.constexpr, SLOPE: tl.constexpr, SCALED: tl.constexpr,
):  # fmt: skip
    """The gradient by a layer's product from that by its activation; the sums over this tile's points are written on the way."""
    delta *= steepness(conditioned(product, scales, shifts, at, SCALED), ACTIVATION, SLOPE)
    tl.store(to_shifts + at, tl.sum(delta, 0))
    if SCALED:
        tl.store(to_scales + at, tl.sum(delta * product, 0))
        delta *= tl.load(scales + at)[None, :]
    return delta


@triton.jit
@no_type_check
def _to_entries(
    to_inputs, to_entering, delta, inputs, entering, rows, inside, columns,
    FEATURES: tl.constexpr, NARROW: tl.constexpr, WIDTH: tl.constexpr, TO_INPUTS: tl.constexpr, TO_WEIGHTS: tl.constexpr,
    DTYPE: tl.constexpr, INTERPRETED: tl.constexpr,
):  # fmt: skip
    """Where inputs x enter a layer by U: adds delta U to their gradient; of coordinates, writes delta' x of this tile."""
    if NARROW:
        for f in tl.static_range(FEATURES):
            if TO_INPUTS:
                there = to_inputs + rows * FEATURES + f
                sums = tl.sum(delta * tl.load(entering + f * WIDTH + columns)[None, :], 1)
                tl.store(there, tl.load(there, mask=inside, other=0.0) + sums, mask=inside)
            if TO_WEIGHTS:
                x = tl.load(inputs + rows * FEATURES + f, mask=inside, other=0.0).to(tl.float32)
                tl.store(to_entering + f * WIDTH + columns, tl.sum(x[:, None] * delta, 0))
    elif TO_INPUTS:
        for start in range(0, FEATURES, 16):
            f = start + tl.arange(0, 16)
            there = to_inputs + rows[:, None] * FEATURES + f[None, :]
            mask = inside[:, None] & (f < FEATURES)[None, :]
            u = tl.load(entering + f[None, :] * WIDTH + columns[:, None], mask=(f < FEATURES)[None, :], other=0.0)
            sums = tl.load(there, mask=mask, other=0.0)
            tl.store(there, dot(delta.to(DTYPE), u.to(DTYPE), sums, INTERPRETED), mask=mask)
    if TO_INPUTS:
        tl.debug_barrier()  # another layer may add to them, by other threads


@triton.jit(do_not_specialize=COUNTS)
@no_type_check
def outer(
    result, deltas, right, inputs, entering, scales, shifts,
    points, signals, first, splits, inputs_step, conditioning_step,
    FEATURES: tl.constexpr, NARROW: tl.constexpr, WIDTH: tl.constexpr, SOURCE: tl.constexpr,
    ACTIVATION: tl.constexpr, SLOPE: tl.constexpr, SCALED: tl.constexpr, DTYPE: tl.constexpr, INTERPRETED: tl.constexpr,
    POINTS: tl.constexpr, SIDE: tl.constexpr, ACROSS: tl.constexpr,
):  # fmt: skip
    """delta_l' x over every `splits`-th part of all points, for layers l = first, ...: [splits, layers, WIDTH, columns of x].

    x is h_(l-1), made from the kept products ("kept") or the coordinates ("first"), or the inputs themselves ("inputs").
    """
    COLUMNS: tl.constexpr = FEATURES if SOURCE == "inputs" else WIDTH
    across: tl.constexpr = (COLUMNS + ACROSS - 1) // ACROSS
    tile, split, index = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    layer = first + index
    out = (tile // across) * SIDE + tl.arange(0, SIDE)
    into = (tile % across) * ACROSS + tl.arange(0, ACROSS)
    layer_step = tl.cast(signals, tl.int64) * points * WIDTH
    deltas += (layer - NARROW) * layer_step
    if SOURCE == "kept":
        right += (layer - 1 - NARROW) * layer_step
    parts = tl.cdiv(points, POINTS)
    total = tl.zeros((SIDE, ACROSS), tl.float32)
    for part in range(split, signals * parts, splits):
        signal = (part // parts).to(tl.int64)
        rows = ((part % parts) * POINTS).to(tl.int64) + tl.arange(0, POINTS)
        inside = rows < points
        start = (signal * points + rows)[:, None] * WIDTH
        delta = tl.load(deltas + start + out[None, :], mask=inside[:, None], other=0.0)
        if SOURCE == "inputs":
            where = inputs + signal * inputs_step + rows[:, None] * FEATURES + into[None, :]
            x = tl.load(where, mask=inside[:, None] & (into < FEATURES)[None, :], other=0.0)
        else:
            if SOURCE == "kept":
                product = tl.load(right + start + into[None, :], mask=inside[:, None], other=0.0).to(tl.float32)
            else:
                product = entered(
                    tl.zeros((POINTS, ACROSS), tl.float32), inputs + signal * inputs_step, entering, rows, inside, into,
                    FEATURES, NARROW, WIDTH, DTYPE, INTERPRETED,
                )  # fmt: skip
            at = signal * conditioning_step + (layer - 1) * WIDTH + into
            x = activated(conditioned(product, scales, shifts, at, SCALED), ACTIVATION, SLOPE)
        total = dot(tl.trans(delta), x.to(DTYPE), total, INTERPRETED)
    layers = tl.num_programs(2)
    where = ((split * layers + index) * WIDTH + out)[:, None] * COLUMNS + into[None, :]
    tl.store(result + where, total, mask=(into < COLUMNS)[None, :])
