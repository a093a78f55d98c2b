"""Boxes, capsules, tori, tables and chairs of a few parameters each: the embedded data set of shapes, made when it is asked for."""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float

from neuralfield.domains.surfaces import Surface, isosurface
from neuralfield.errors import UsageError
from neuralfield.registry import nearest
from neuralfield.signals.distances import Plan
from neuralfield.signals.images import SPLITS, check_split
from neuralfield.signals.shapes import Sampled, Shapes

COUNTS = {"train": 64, "test": 16}
CELLS = 48
"""Along an axis of the grid that surfaces are taken from."""
ROUND = 0.03
"""Radius over which parts of a piece of furniture run into each other."""

Points = Float[np.ndarray, "n 3"]
Values = Float[np.ndarray, " n"]


def primitives(
    split: str = "train",
    count: int | None = None,
    family: str = "all",
    even: int = 4096,
    surface: int = 2048,
    near: int = 8192,
    spread: float = 0.05,
    balanced: bool = False,
    seed: int = 0,
) -> Shapes:
    """Shapes of the families box, capsule, torus, table and chair in turn, or of one `family`; labels number the families.

    A shape is the same whatever `count` is. `even`, `surface`, `near` and `spread` say where distances are taken (`Plan`). With
    `balanced`, a draw of some points takes half of them inside (`Shapes`).
    """
    check_split(split)
    if family != "all" and family not in FAMILIES:
        raise UsageError(f'there is no family "{family}"{nearest(family, list(FAMILIES))}; known: all, {", ".join(FAMILIES)}')
    count = COUNTS[split] if count is None else count
    if count < 1:
        raise UsageError(f"signals.count must be at least 1, got {count}")
    families, plan = list(FAMILIES), Plan(even, surface, near, spread)
    labels = [i % len(families) if family == "all" else families.index(family) for i in range(count)]
    taken = []
    for i, label in enumerate(labels):
        random = np.random.default_rng([seed, SPLITS.index(split), i, label])
        taken.append(plan.take(_surface(FAMILIES[families[label]](random)), random))
    ids = [f"{split}-{i:03d}-{families[label]}" for i, label in enumerate(labels)]
    return Shapes([Sampled(*each) for each in taken], ids, even=even, labels=torch.tensor(labels), balanced=balanced)


def _surface(distance: Callable[[Points], Values]) -> Surface:
    axis = np.linspace(-1, 1, CELLS + 1)
    grid = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    return isosurface(distance(grid).reshape(CELLS + 1, CELLS + 1, CELLS + 1), np.full(3, -1.0), 2 / CELLS)


# parts, each as its signed distance (Quilez, "Distance functions")


def _box(points: Points, centre: list[float], half: list[float], radius: float = 0.02) -> Values:
    beyond = np.abs(points - centre) - (np.array(half) - radius)
    outside: Values = np.linalg.norm(np.maximum(beyond, 0), axis=1)
    return outside + np.minimum(beyond.max(1), 0) - radius


def _capsule(points: Points, start: list[float], end: list[float], radius: float) -> Values:
    along = np.subtract(end, start)
    share = ((points - start) @ along / (along @ along)).clip(0, 1)
    far: Values = np.linalg.norm(points - start - share[:, None] * along, axis=1)
    return far - radius


def _joined(parts: list[Values]) -> Values:
    """Their union, rounded where they meet (polynomial smooth minimum)."""
    union = parts[0]
    for part in parts[1:]:
        mix = (0.5 + 0.5 * (part - union) / ROUND).clip(0, 1)
        union = part * (1 - mix) + union * mix - ROUND * mix * (1 - mix)
    return union


# families: random parameters, then a signed distance


def _boxes(random: np.random.Generator) -> Callable[[Points], Values]:
    half = random.uniform(0.2, 0.55, 3).tolist()
    return lambda points: _box(points, [0.0, 0.0, 0.0], half, 0.05)


def _capsules(random: np.random.Generator) -> Callable[[Points], Values]:
    direction = random.standard_normal(3)
    end = direction / np.linalg.norm(direction) * random.uniform(0.2, 0.55)
    radius = random.uniform(0.12, 0.3)
    return lambda points: _capsule(points, (-end).tolist(), end.tolist(), radius)


def _tori(random: np.random.Generator) -> Callable[[Points], Values]:
    large, small = random.uniform(0.4, 0.65), random.uniform(0.1, 0.22)
    turn = np.linalg.qr(random.standard_normal((3, 3)))[0]

    def distance(points: Points) -> Values:
        x, y, z = (points @ turn).T
        return np.hypot(np.hypot(x, y) - large, z) - small

    return distance


def _legs(points: Points, wide: float, deep: float, top: float, floor: float, radius: float) -> list[Values]:
    return [
        _capsule(points, [x * (wide - radius), top, z * (deep - radius)], [x * (wide - radius), floor, z * (deep - radius)], radius)
        for x in (-1, 1)
        for z in (-1, 1)
    ]


def _tables(random: np.random.Generator) -> Callable[[Points], Values]:
    wide, deep = random.uniform(0.4, 0.7), random.uniform(0.3, 0.55)
    height, thick, radius = random.uniform(0.25, 0.5), random.uniform(0.04, 0.07), random.uniform(0.05, 0.08)

    def distance(points: Points) -> Values:
        return _joined([_box(points, [0.0, height, 0.0], [wide, thick, deep]), *_legs(points, wide, deep, height, -height, radius)])

    return distance


def _chairs(random: np.random.Generator) -> Callable[[Points], Values]:
    wide, deep = random.uniform(0.3, 0.45), random.uniform(0.3, 0.42)
    legs, back = random.uniform(0.35, 0.55), random.uniform(0.4, 0.65)
    thick, radius, arms = random.uniform(0.04, 0.07), random.uniform(0.05, 0.07), random.random() < 0.4
    high, rim = 0.45 * back, deep - radius

    def distance(points: Points) -> Values:
        seat = _box(points, [0.0, 0.0, 0.0], [wide, thick, deep])
        rest = _box(points, [0.0, back / 2, -deep + thick], [wide, back / 2, thick])
        parts = [seat, rest, *_legs(points, wide, deep, 0.0, -legs, radius)]
        for x in (-1, 1) if arms else ():
            behind, front, below = ([x * (wide - radius), y, z] for y, z in ((high, -rim), (high, rim), (0.0, rim)))
            parts += [_capsule(points, behind, front, radius), _capsule(points, below, front, radius)]
        return _joined(parts)

    return distance


FAMILIES: dict[str, Callable[[np.random.Generator], Callable[[Points], Values]]] = {
    "box": _boxes,
    "capsule": _capsules,
    "torus": _tori,
    "table": _tables,
    "chair": _chairs,
}
