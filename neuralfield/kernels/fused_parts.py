"""Pieces of the fused kernels, in Triton: activations, one layer's product, its conditioning.

`no_type_check` keeps type checkers off, mypy's and the tests': Triton reads the source, whose variables are blocks of numbers.
"""

from typing import no_type_check

import triton
import triton.language as tl

COUNTS = ["points", "signals", "depth", "again", "first", "splits", "inputs_step"]
"""Arguments that programs are not compiled anew for, be they 1 or multiples of 16."""


@triton.jit
@no_type_check
def turned(x):
    """(x - k pi, (-1)^k) for the nearest integer k: sin x = (-1)^k sin(x - k pi), and the same of cos.

    pi comes in three parts (Cody and Waite; constants of Cephes), of which the first times k is exact: good to 2e-7 up to 10^4
    radians. CUDA's sine has a slow path for large ones, whose code would be there once for every number that a thread holds.
    """
    k = tl.floor(x * 0.3183098861837907 + 0.5)
    rest = x - k * 3.140625
    rest = rest - k * 9.67502593994140625e-4
    rest = rest - k * 1.509957990978376432e-7
    return rest, 1.0 - 2.0 * (k - 2.0 * tl.floor(k * 0.5))


@triton.jit
@no_type_check
def sine(x):
    """A polynomial on half a turn, fitted to 5e-9."""
    r, sign = turned(x)
    q = r * r
    high = -0.16666657095912035 + q * (0.008333017280149813 + q * (-0.00019806614520073837 + q * 2.6000534816342236e-06))
    return sign * (r + r * q * high)


@triton.jit
@no_type_check
def cosine(x):
    """The same, to 3e-10."""
    r, sign = turned(x)
    q = r * r
    high = 0.041666640727242216 + q * (-0.00138884034992113 + q * (2.4761885844690884e-05 - q * 2.607709899613009e-07))
    return sign * (1.0 + q * (-0.4999999954953275 + q * high))


@triton.jit
@no_type_check
def activated(x, ACTIVATION: tl.constexpr, SLOPE: tl.constexpr):
    """activation(x)."""
    if ACTIVATION == "sine":
        return sine(x)
    elif ACTIVATION == "silu":
        return x * tl.sigmoid(x)
    elif ACTIVATION == "relu":
        return tl.maximum(x, 0.0)
    else:
        return tl.where(x > 0.0, x, SLOPE * x)


@triton.jit
@no_type_check
def steepness(x, ACTIVATION: tl.constexpr, SLOPE: tl.constexpr):
    """activation'(x)."""
    if ACTIVATION == "sine":
        return cosine(x)
    elif ACTIVATION == "silu":
        s = tl.sigmoid(x)
        return s * (1.0 + x * (1.0 - s))
    elif ACTIVATION == "relu":
        return tl.where(x > 0.0, 1.0, 0.0)
    else:
        return tl.where(x > 0.0, 1.0, SLOPE)


@triton.jit
@no_type_check
def conditioned(product, scales, shifts, at, SCALED: tl.constexpr):
    """scale product + shift, with the numbers at `at`."""
    shift = tl.load(shifts + at)[None, :]
    if SCALED:
        return product * tl.load(scales + at)[None, :] + shift
    else:
        return product + shift


@triton.jit
@no_type_check
def dot(a, b, accumulator, INTERPRETED: tl.constexpr):
    """accumulator + a b, in float32. The interpreter multiplies the bits of bfloat16 as integers, so it gets float32."""
    if INTERPRETED:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, accumulator, input_precision="ieee")


@triton.jit
@no_type_check
def entered(
    accumulator, inputs, entering, rows, inside, columns,
    FEATURES: tl.constexpr, NARROW: tl.constexpr, WIDTH: tl.constexpr, DTYPE: tl.constexpr, INTERPRETED: tl.constexpr,
):  # fmt: skip
    """accumulator + inputs U', where `entering` [F, WIDTH] is U': exact for coordinates, 16 features at a time for many."""
    if NARROW:
        for f in tl.static_range(FEATURES):
            x = tl.load(inputs + rows * FEATURES + f, mask=inside, other=0.0).to(tl.float32)
            accumulator += x[:, None] * tl.load(entering + f * WIDTH + columns)[None, :]
    else:
        for start in range(0, FEATURES, 16):
            f = start + tl.arange(0, 16)
            there = f < FEATURES
            x = tl.load(inputs + rows[:, None] * FEATURES + f[None, :], mask=inside[:, None] & there[None, :], other=0.0)
            u = tl.load(entering + f[:, None] * WIDTH + columns[None, :], mask=there[:, None], other=0.0)
            accumulator = dot(x.to(DTYPE), u.to(DTYPE), accumulator, INTERPRETED)
    return accumulator


@triton.jit
@no_type_check
def through(
    h, matrix, scratch, rows, inside, columns,
    K_STEP: tl.constexpr, N_STEP: tl.constexpr, WIDTH: tl.constexpr, CHUNK: tl.constexpr, INTERPRETED: tl.constexpr,
):  # fmt: skip
    """h M, where M[k, n] is at `matrix` + k K_STEP + n N_STEP.

    The matrix is in shared memory as a whole, or CHUNK of its rows at a time; h then goes through `scratch` [N, WIDTH], which stays
    in the cache, because a part of a block cannot be taken out of registers.
    """
    total = tl.zeros(h.shape, tl.float32)
    if CHUNK == WIDTH:
        total = dot(h, tl.load(matrix + columns[:, None] * K_STEP + columns[None, :] * N_STEP), total, INTERPRETED)
    else:
        tl.store(scratch + rows[:, None] * WIDTH + columns[None, :], h, mask=inside[:, None])
        tl.debug_barrier()  # others of this program read what this thread wrote
        for start in range(0, WIDTH, CHUNK):
            k = start + tl.arange(0, CHUNK)
            part = tl.load(scratch + rows[:, None] * WIDTH + k[None, :], mask=inside[:, None], other=0.0)
            total = dot(part, tl.load(matrix + k[:, None] * K_STEP + columns[None, :] * N_STEP), total, INTERPRETED)
        tl.debug_barrier()
    return total
