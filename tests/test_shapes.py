"""Shapes: the domain's contract, its scores against closed forms, what a depth camera sees, and the sets that are made here."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from contracts.domain import DomainContract
from contracts.signals import SignalsContract
from scipy.spatial import cKDTree
from skimage.measure import find_contours, marching_cubes
from synthetic import balls, sphere, spheres

from neuralfield.domains.domain import Domain
from neuralfield.domains.renders import camera
from neuralfield.domains.shape import Shape
from neuralfield.domains.surface_scores import NEAR, Cloud, surface_scores
from neuralfield.domains.surfaces import extracted
from neuralfield.errors import NeuralfieldError, UsageError
from neuralfield.signals.masks import Visibility
from neuralfield.signals.primitives import FAMILIES, primitives
from neuralfield.signals.shapes import Sampled, Shapes
from neuralfield.signals.signals import Signals, load
from neuralfield.types import AT_LEAST, EQUAL, Field, Observations


class ShapeContract(DomainContract):
    dims: int
    least = 2

    def different(self, domain: Domain, levels: list[float]) -> Field:
        return spheres(torch.tensor(levels), domain.coord_dim)

    @pytest.fixture
    def domain(self) -> Domain:
        return Shape(self.dims, even=300)

    @pytest.fixture
    def truth(self) -> Observations:
        return balls(3, self.dims).truth(torch.arange(3))


class TestShape(ShapeContract):
    dims = 3


class TestOutline(ShapeContract):
    dims = 2


@pytest.mark.parametrize("dims", [1, 4, 0])
def test_shapes_of_other_dimensions_are_refused(dims: int) -> None:
    with pytest.raises(NeuralfieldError, match=f"2 or 3 dimensions, got {dims}"):
        Shape(dims)


@pytest.mark.parametrize(
    ("side", "axis"),
    [("left", (0, -1)), ("right", (0, 1)), ("bottom", (1, -1)), ("top", (1, 1)), ("back", (2, -1)), ("front", (2, 1))],
)
def test_sides_of_a_shape_have_everyday_names(side: str, axis: tuple[int, int]) -> None:
    assert Shape(3).axis(side) == axis
    if axis[0] < 2:
        assert Shape(2).axis(side) == axis
    else:
        with pytest.raises(UsageError, match=f'no side "{side}".*left'):
            Shape(2).axis(side)


def test_a_resolution_of_one_sample_is_one_line_for_pictures_and_surfaces_too() -> None:
    for look in (Shape(3).surface, Shape(3).render, Shape(2).render):
        with pytest.raises(NeuralfieldError, match="at least 2 samples, got 1"):
            look(sphere(), 1)


def test_of_solids_alone_there_is_a_surface_to_look_at() -> None:
    assert Shape(3).solid
    assert not Shape(2).solid


# scores


@pytest.mark.parametrize("dims", [2, 3])
def test_a_sphere_that_is_too_large_is_off_by_its_excess_everywhere(dims: int) -> None:
    truth = balls(3, dims).truth(torch.arange(3))
    scores = Shape(dims, 300).score(spheres(torch.tensor([0.45, 0.51 + 0.02, 0.57 - 0.1]), dims), truth)
    for name in ("sdf_l1", "sdf_l1_near"):
        torch.testing.assert_close(scores[name], torch.tensor([0.0, 0.02, 0.1]), rtol=0, atol=1e-6)


def test_bounds_are_not_scored() -> None:
    truth = balls(2).truth(torch.arange(2))
    relation = torch.zeros(truth.weight.shape, dtype=torch.long)
    relation[:, ::3] = AT_LEAST
    values = torch.where((relation == AT_LEAST)[..., None], 0.0, truth.values)
    bounded = Observations(truth.index, truth.coords, values, truth.weight, relation)
    for scores in Shape(3).score(spheres(torch.tensor([0.45, 0.51])), bounded).values():
        torch.testing.assert_close(scores, torch.zeros(2), rtol=0, atol=1e-6)


def plane(height: float, count: int = 60) -> Cloud:
    """A square grid of points [-1, 1]^2 at one height."""
    x, y = np.meshgrid(np.linspace(-1, 1, count), np.linspace(-1, 1, count))
    points = np.stack([x.ravel(), y.ravel(), np.full(x.size, height)], 1)
    return Cloud(points, np.broadcast_to([0.0, 0.0, 1.0], points.shape).copy())


@pytest.mark.parametrize("apart", [0.0, 0.01, 0.3])
def test_parallel_planes_are_their_distance_apart(apart: float) -> None:
    scores = surface_scores(plane(0.1), plane(0.1 + apart))
    assert scores["chamfer"] == pytest.approx(2 * apart**2, abs=1e-12)  # squared, the sum over both directions
    assert scores["chamfer_l1"] == pytest.approx(apart, abs=1e-12)  # their mean
    assert scores["fscore"] == pytest.approx(float(apart < NEAR))
    assert scores["normal_consistency"] == pytest.approx(1)


def ring(radius: float, count: int, share: float = 1.0) -> Cloud:
    angle = np.arange(round(share * count)) * 2 * np.pi / count
    normals = np.stack([np.cos(angle), np.sin(angle)], 1)
    return Cloud(radius * normals, normals)


def test_concentric_circles_are_the_difference_of_their_radii_apart() -> None:
    scores = surface_scores(ring(0.5, 20_000), ring(0.8, 30_000))
    # the nearest point lies at most half a step beside: (0.8 pi / 20000)^2 / 0.3 / 2, which is nothing
    assert scores["chamfer"] == pytest.approx(2 * 0.3**2, rel=1e-6)
    assert scores["chamfer_l1"] == pytest.approx(0.3, rel=1e-6)
    assert scores["fscore"] == 0
    assert scores["normal_consistency"] == pytest.approx(1, abs=1e-6)


def test_what_one_side_lacks_counts_in_one_direction_alone() -> None:
    half, whole = ring(0.5, 1000, share=0.5), ring(0.5, 1000)
    found = (cKDTree(half.points).query(whole.points)[0] < NEAR).mean()
    for one, other in ((half, whole), (whole, half)):
        scores = surface_scores(one, other)
        assert scores["fscore"] == pytest.approx(2 * found / (1 + found))
        assert scores["chamfer_l1"] == pytest.approx(cKDTree(half.points).query(whole.points)[0].mean() / 2)


def test_a_surface_that_is_inside_out_has_the_same_normals() -> None:
    cloud = plane(0.0)
    assert cloud.normals is not None
    assert surface_scores(Cloud(cloud.points, -cloud.normals), cloud)["normal_consistency"] == pytest.approx(1)
    across = np.broadcast_to([1.0, 0.0, 0.0], cloud.points.shape).copy()
    assert surface_scores(Cloud(cloud.points, across), cloud)["normal_consistency"] == pytest.approx(0)


def test_nothing_at_all_counts_as_the_one_point_zero() -> None:
    ring_, nothing = ring(0.5, 100), Cloud(np.zeros((0, 2)))
    for one, other in ((nothing, ring_), (ring_, nothing)):
        scores = surface_scores(one, other)
        assert scores["chamfer"] == pytest.approx(2 * 0.25)
        assert scores["chamfer_l1"] == pytest.approx(0.5)
        assert scores["fscore"] == 0
        assert "normal_consistency" not in scores


@pytest.mark.parametrize("dims", [2, 3])
def test_whole_shapes_are_compared_by_their_surfaces_and_volumes(dims: int) -> None:
    count = 20_000 if dims == 3 else 4000
    truth = balls(2, dims, even=4000, surface=count).truth(torch.arange(2))
    scores = Shape(dims, 4000).compare(spheres(torch.tensor([0.45, 0.61]), dims), {"observed": truth})["observed"]
    exact, large = ({name: float(values[row]) for name, values in scores.items()} for row in (0, 1))
    # points lie, in the mean, half a spacing of the others from the nearest of them
    spacing = math.sqrt(4 * math.pi * 0.45**2 / count) if dims == 3 else 2 * math.pi * 0.45 / count
    assert exact["chamfer_l1"] < 0.6 * spacing
    assert exact["fscore"] == 1
    assert exact["iou"] == 1
    assert exact["normal_consistency"] > 0.99
    assert large["chamfer_l1"] == pytest.approx(0.1, rel=0.05)
    assert large["chamfer"] == pytest.approx(2 * 0.1**2, rel=0.05)
    assert large["fscore"] == 0
    # the share of volumes, within four standard errors of counting points
    assert large["iou"] == pytest.approx((0.51 / 0.61) ** dims, abs=4 * 0.5 / math.sqrt(4000 * 0.2))


def test_each_side_of_a_mask_is_compared_with_what_is_nearest_to_it() -> None:
    """A field that is right where x < 0 and too large elsewhere."""
    truth = balls(1, even=2000, surface=4000).truth(torch.arange(1))
    field = Field(lambda r, t: t.norm(dim=-1, keepdim=True) - r[:, None, None] - 0.1 * (t[..., :1] > 0), torch.tensor([0.45]))
    left, right = Visibility(observe=["half:x"]).split(truth, Shape(3))
    scores = Shape(3, 2000).compare(field, {"observed": left, "hidden": right})
    assert scores["observed"]["chamfer_l1"] < 0.03
    assert scores["observed"]["iou"] > 0.97
    assert scores["hidden"]["chamfer_l1"] == pytest.approx(0.1, abs=0.02)
    assert scores["hidden"]["iou"] == pytest.approx((0.45 / 0.55) ** 3, abs=0.1)


def test_scores_of_surfaces_stay_in_the_rows_of_their_shapes() -> None:
    truth = balls(3).truth(torch.arange(3))
    weight = truth.weight.clone()
    weight[1] = 0
    blind = Observations(truth.index, truth.coords, truth.values, weight, None, truth.normals)
    radii = torch.tensor([0.45, 0.51, 0.87])
    scores = Shape(3, 300).compare(spheres(radii), {"observed": blind})["observed"]
    for name, values in scores.items():
        assert values.isfinite().tolist() == [True, False, True], name
    assert scores["chamfer_l1"][2] == pytest.approx(0.3, rel=0.05)


def test_normals_count_only_where_all_of_them_are_known() -> None:
    truth = balls(1, surface=20_000).truth(torch.arange(1))
    assert truth.normals is not None
    some = truth.normals * (torch.rand(1, truth.normals.shape[1], 1) < 0.5)
    partly = Observations(truth.index, truth.coords, truth.values, truth.weight, None, some)
    scores = Shape(3).compare(spheres(torch.tensor([0.45])), {"observed": partly})["observed"]
    assert "normal_consistency" not in scores
    assert scores["fscore"] > 0.9


def test_a_field_without_a_surface_has_scores() -> None:
    truth = balls(1, even=100).truth(torch.arange(1))
    scores = Shape(3, 100).compare(spheres(torch.tensor([-1.0])), {"observed": truth})["observed"]
    assert scores["chamfer_l1"].item() == pytest.approx(0.45, abs=1e-3)  # from the one point 0
    assert scores["iou"].item() == 0


# extraction


def dense(field: Field, resolution: int) -> np.ndarray:
    """Vertices that the whole grid gives."""
    axis = torch.linspace(-1, 1, resolution)
    grid = torch.stack(torch.meshgrid(*[axis] * 3, indexing="ij"), -1).reshape(1, -1, 3)
    values = field(grid)[0, :, 0].reshape((resolution,) * 3).numpy()
    vertices: np.ndarray = marching_cubes(values, 0.0)[0] * 2 / (resolution - 1) - 1
    return vertices


def sheet(half: float) -> Field:
    """A disk of that half thickness, tilted, so that it lies between samples."""

    def distance(conditioning: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        across, along = t[..., 1:2] + 0.1 * t[..., :1], t[..., :1].hypot(t[..., 2:])
        return torch.maximum(across.abs() / 1.01**0.5 - half, along - 0.8)

    return Field(distance, torch.zeros(1, 1))


@pytest.mark.parametrize("resolution", [64, 100])
@pytest.mark.parametrize(
    "field",
    [sphere(0.6, factor=2), sphere(0.6, factor=3), sphere(0.6, factor=0.3), sheet(0.02), sheet(0.008)],
    ids=["twice a distance", "three times", "a third", "a sheet", "a thinner sheet"],
)
def test_fields_that_are_no_distances_have_the_surface_of_the_whole_grid(field: Field, resolution: int) -> None:
    surface, evaluated = extracted(field, resolution)
    vertices = dense(field, resolution)
    assert len(vertices) == len(surface.vertices)
    assert cKDTree(vertices).query(surface.vertices)[0].max() < 1e-5
    assert cKDTree(surface.vertices).query(vertices)[0].max() < 1e-5
    assert evaluated < 0.5 * resolution**3


@pytest.mark.parametrize("factor", [1.0, 3.0])
def test_a_circle_that_is_no_distance_is_one_closed_line(factor: float) -> None:
    surface, _ = extracted(sphere(0.6, 2, factor), 200, dims=2)
    axis = np.linspace(-1, 1, 200)
    values = np.hypot(*np.meshgrid(axis, axis, indexing="ij")) - 0.6
    assert len(surface.vertices) == sum(map(len, find_contours(values, 0.0)))
    assert surface.volume == pytest.approx(math.pi * 0.36, rel=1e-3)


@pytest.mark.parametrize("radius", [0.9, 1.0])
def test_a_sphere_at_128_is_exact_to_a_ten_thousandth_and_cheap(radius: float) -> None:
    surface, evaluated = extracted(sphere(radius), 128)
    assert np.abs(np.linalg.norm(surface.vertices, axis=1) - radius).max() < 1e-4
    assert evaluated < 0.2 * 128**3


# what a depth camera sees


def seen_by(what: str, normals: bool = True, **sizes: int) -> tuple[Observations, Observations, Observations]:
    """(all, observed, hidden) of one ball of radius 0.45."""
    whole = balls(1, normals=normals, **{"even": 4000, "surface": 4000, "near": 1000, **sizes}).truth(torch.arange(1))
    return (whole, *Visibility(observe=[what]).split(whole, Shape(3)))


CAMERAS = [(0.0, 0.0), (30.0, 20.0), (-130.0, -50.0), (10.0, 90.0)]


def eye_of(azimuth: float, elevation: float) -> torch.Tensor:
    a, e = math.radians(azimuth), math.radians(elevation)
    return 3 * torch.tensor([math.sin(a) * math.cos(e), math.sin(e), math.cos(a) * math.cos(e)])


@pytest.mark.parametrize(("azimuth", "elevation"), CAMERAS)
def test_the_camera_stands_where_its_angles_say(azimuth: float, elevation: float) -> None:
    turn = camera(azimuth, elevation)
    np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(turn @ eye_of(azimuth, elevation).numpy(), [0, 0, 3], atol=1e-6)
    assert turn[1, 1] >= -1e-12  # up is up


@pytest.mark.parametrize("surface", [1000, 8000])
@pytest.mark.parametrize("normals", [True, False])
@pytest.mark.parametrize(("azimuth", "elevation"), CAMERAS)
def test_a_depth_map_of_a_ball_shows_the_points_that_face_the_camera(
    azimuth: float, elevation: float, normals: bool, surface: int
) -> None:
    whole, observed, _ = seen_by(f"depth:{azimuth},{elevation}", normals, surface=surface)
    points, eye = whole.coords[0], eye_of(azimuth, elevation)
    on = whole.values[0, :, 0] == 0
    told = observed.told[0] > 0
    assert not (told & ~on).any()
    to_eye = (eye - points) / (eye - points).norm(dim=1, keepdim=True)
    facing = (to_eye * points).sum(1) / 0.45  # the cosine between normal and view
    assert told[on & (facing > 0.4)].all()
    # without normals, what lies just beyond the rim is seen too: within a pixel's slack in depth
    assert not told[on & (facing <= (0 if normals else -0.4))].any()


@pytest.mark.parametrize(("azimuth", "elevation"), CAMERAS)
def test_free_is_what_lies_before_a_ball_or_beside_it_and_never_what_it_hides(azimuth: float, elevation: float) -> None:
    whole, observed, hidden = seen_by(f"depth:{azimuth},{elevation}")
    points, eye = whole.coords[0], eye_of(azimuth, elevation)
    assert observed.relation is not None
    free = (observed.relation[0] == AT_LEAST) & (observed.weight[0] > 0)
    outside = whole.values[0, :, 0] > 0
    assert not (free & ~outside).any()
    assert observed.values[0, free].eq(0).all()  # how far the surface is stays hidden
    # how near the way from a point to the eye comes to the ball's centre
    share = ((points * (points - eye)).sum(1) / (points - eye).square().sum(1)).clamp(0, 1)
    passes = (points + share[:, None] * (eye - points)).norm(dim=1)
    assert (passes[free] > 0.45 * 0.97).all()
    assert free[outside & (passes > 0.45 + 0.16)].all()  # two pixels of the depth map beside it
    assert free.sum() > 500
    behind = outside & (passes < 0.4)
    assert behind.sum() > 20
    assert (hidden.weight[0, behind] > 0).all()
    inside = whole.values[0, :, 0] < 0
    assert (hidden.weight[0, inside] > 0).all()
    assert torch.equal(observed.weight + hidden.weight, whole.weight)


def test_what_is_in_front_hides_what_is_behind() -> None:
    """Two small balls, one behind the other."""
    draw = np.random.default_rng(0)
    direction = draw.standard_normal((6000, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    points = 0.3 * direction + np.repeat([[0, 0, 0.5], [0, 0, -0.5]], 3000, 0)
    shape = Shapes([np.concatenate([points, np.zeros((6000, 1))], 1).astype(np.float32)])
    seen = Visibility(observe=["depth:0,0"])(shape.truth(torch.arange(1)), Shape(3))[0]
    assert seen[:3000].float().mean() > 0.35
    assert not seen[3000:].any()
    beside = Visibility(observe=["depth:90,0"])(shape.truth(torch.arange(1)), Shape(3))[0]
    assert float(beside[:3000].float().mean()) == pytest.approx(float(beside[3000:].float().mean()), abs=0.05)


def test_without_samples_on_the_surface_those_near_it_stand_for_it() -> None:
    whole = balls(1, even=2000, surface=0, near=20_000, normals=False).truth(torch.arange(1))
    observed, _ = Visibility(observe=["depth:0,0"]).split(whole, Shape(3))
    told = observed.told[0] > 0
    assert told.any()
    assert (whole.values[0, told].abs() < 0.01).all()
    assert (whole.coords[0, told, 2] > -0.25).all()


def test_seen_by_two_masks_a_point_has_its_value() -> None:
    whole, depth, _ = seen_by("depth:30,20")
    both, rest = Visibility(observe=["depth:30,20", "half:x"]).split(whole, Shape(3))
    half = whole.coords[..., 0] < 0
    assert both.relation is not None
    assert depth.relation is not None
    assert both.relation[half].eq(EQUAL).all()
    assert torch.equal(both.values[half], whole.values[half])
    assert torch.equal(both.relation[~half], depth.relation[~half])
    assert torch.equal(both.values[~half], depth.values[~half])
    assert torch.equal(both.weight > 0, (depth.weight > 0) | half)
    assert torch.equal(both.weight + rest.weight, whole.weight)
    two, _ = Visibility(observe=["depth:30,20", "depth:-150,-20"]).split(whole, Shape(3))
    assert (two.weight >= depth.weight).all()
    assert two.weight.sum() > 1.3 * depth.weight.sum()


def test_hidden_is_hidden_from_a_camera_too() -> None:
    whole, depth, _ = seen_by("depth:0,0")
    less, _ = Visibility(observe=["depth:0,0"], hide=["half:x"]).split(whole, Shape(3))
    half = whole.coords[..., 0] < 0
    assert torch.equal(less.weight, depth.weight * ~half)


def test_bounds_stay_bounds_behind_a_mask() -> None:
    whole, _, _ = seen_by("depth:0,0")
    relation = (whole.values[..., 0] > 0.2).long()
    values = torch.where(relation[..., None] == EQUAL, whole.values, 0.0)
    scan = Observations(whole.index, whole.coords, values, whole.weight, relation, whole.normals)
    for what in ("depth:0,0", "half:x", "random:0.5"):
        observed, hidden = Visibility(observe=[what]).split(scan, Shape(3))
        for side in (observed, hidden):
            assert side.relation is not None
            assert (side.relation >= relation).all(), what
        told = observed.told > 0
        assert torch.equal(observed.values[told], whole.values[told])
    # a bound of 0 is not a point of the surface: with it, free space before the ball would hide the ball
    plain, bounded = (Visibility(observe=["depth:0,0"]).split(seen, Shape(3))[0] for seen in (whole, scan))
    assert torch.equal(plain.told > 0, bounded.told > 0)


@pytest.mark.parametrize("argument", ["", "30", "30,20,10", "thirty,20", "nan,0", "0,inf", "30;20"])
def test_a_camera_without_two_angles_is_one_line(argument: str) -> None:
    whole = balls(1).truth(torch.arange(1))
    with pytest.raises(UsageError, match="azimuth and an elevation") as caught:
        Visibility(observe=[f"depth:{argument}"]).split(whole, Shape(3))
    assert f'"{argument}"' in str(caught.value)


def test_outlines_have_no_depth() -> None:
    with pytest.raises(UsageError, match="for shapes in space; these have 2"):
        Visibility(observe=["depth:30,20"]).split(balls(1, 2).truth(torch.arange(1)), Shape(2))


@pytest.mark.parametrize(("side", "axis", "sign"), [("x", 0, -1), ("-y", 1, 1), ("front", 2, 1), ("back", 2, -1), ("left", 0, -1)])
def test_halves_of_shapes(side: str, axis: int, sign: int) -> None:
    whole = balls(2).truth(torch.arange(2))
    seen = Visibility(observe=[f"half:{side}"])(whole, Shape(3))
    assert torch.equal(seen, whole.coords[..., axis] * sign > 0)


# sets of shapes


class TestBalls(SignalsContract):
    replaces = True

    @pytest.fixture
    def signals(self) -> Signals:
        return balls(6)


class TestUnlikeShapes(SignalsContract):
    """Of different numbers of points, some with normals, some with bounds."""

    replaces = True

    @pytest.fixture
    def signals(self) -> Signals:
        draw = np.random.default_rng(0)
        made = []
        for i in range(6):
            values = draw.uniform(-1, 1, (20 + 5 * i, 3)).astype(np.float32)
            normals = np.eye(2, dtype=np.float32)[draw.integers(0, 2, 4)] if i % 2 else None
            made.append(Sampled(values, normals, empty=3 if i == 5 else 0))
        return Shapes(made, labels=torch.arange(6))


class TestPrimitives(SignalsContract):
    replaces = True

    @pytest.fixture
    def signals(self) -> Signals:
        return load("primitives", count=6, even=100, surface=50, near=100)


def test_bounds_and_normals_of_a_set_stay_with_their_points() -> None:
    values = np.arange(32, dtype=np.float32).reshape(8, 4) / 40
    normals = np.eye(3, dtype=np.float32)
    shapes = Shapes([Sampled(values, normals, empty=2), values[:5]], even=1)
    batch = shapes.batch(torch.tensor([1, 0]))
    assert batch.relation is not None
    assert batch.normals is not None
    assert batch.relation[1].tolist() == [EQUAL] * 6 + [AT_LEAST] * 2
    assert batch.told[0].tolist() == [1] * 5 + [0] * 3
    assert torch.equal(batch.normals[1, 1:4], torch.eye(3))
    assert batch.normals[1, [0, 4, 5, 6, 7]].eq(0).all()
    assert batch.normals[0].eq(0).all()
    drawn = shapes.batch(torch.tensor([0]), 6, torch.Generator().manual_seed(0))
    rows = (drawn.coords[0, :, 0] * 40 / 4).round().long()
    assert torch.equal(drawn.relation[0] == AT_LEAST, rows >= 6)  # type: ignore[index]


@pytest.mark.parametrize("arrays", [[], [np.zeros((3, 5))], [np.zeros((3, 4)), np.zeros((3, 3))], [np.zeros(3)]])
def test_samples_of_another_form_are_one_line(arrays: list[np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)
    with pytest.raises(NeuralfieldError, match=r"\[N, 3\] of the plane or \[N, 4\] of space"):
        Shapes(arrays)


def test_a_shape_without_samples_is_named() -> None:
    with pytest.raises(NeuralfieldError, match="shape hollow has no samples"):
        Shapes([np.zeros((3, 4), np.float32), np.zeros((0, 4), np.float32)], ["full", "hollow"])


def small(**settings: object) -> Shapes:
    return primitives(**{"even": 50, "surface": 50, "near": 50, "count": 5, **settings})  # type: ignore[arg-type]


def test_a_primitive_is_the_same_however_many_there_are() -> None:
    few, many = small(count=2), small(count=7)
    for a, b in zip(few.samples, many.samples, strict=False):
        assert np.array_equal(a.values, b.values)
    assert many.ids[:2] == few.ids
    other, test = small(count=2, seed=1), small(count=2, split="test")
    for different in (other, test):
        assert not np.array_equal(different.samples[0].values, few.samples[0].values)
    assert not set(test.ids) & set(few.ids)


def test_primitives_go_round_their_families_or_keep_to_one() -> None:
    everything, chairs = small(count=7), small(count=2, family="chair")
    assert everything.labels is not None
    assert everything.labels.tolist() == [0, 1, 2, 3, 4, 0, 1]
    assert [name.rpartition("-")[2] for name in everything.ids[:5]] == list(FAMILIES)
    assert chairs.labels is not None
    assert chairs.labels.tolist() == [4, 4]
    assert len(small(count=None).ids) == 64


@pytest.mark.parametrize("family", list(FAMILIES))
def test_primitives_lie_in_the_cube_and_have_an_inside(family: str) -> None:
    for part in small(count=3, family=family, even=3000, surface=500).samples:
        even, on = part.values[:3000], part.values[3000:3500]
        assert np.abs(on[:, :3]).max() < 1
        assert (on[:, 3] == 0).all()
        assert 0.003 < (even[:, 3] < 0).mean() < 0.6
        # the nearest of 500 points of the surface is at least as far as the surface
        far = cKDTree(on[:, :3]).query(even[:, :3])[0]
        assert (np.abs(even[:, 3]) <= far + 1e-5).all()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"family": "chiar"}, ["chiar", 'did you mean "chair"']),
        ({"count": 0}, ["signals.count", "at least 1, got 0"]),
        ({"even": -1}, ["0 or more", "even -1"]),
        ({"even": 0, "surface": 0, "near": 0}, ["1 in all"]),
        ({"spread": 0.0}, ["positive spread", "spread 0.0"]),
    ],
)
def test_primitives_that_cannot_be_made_are_one_line(settings: dict[str, object], words: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        small(**settings)
    assert all(word in str(caught.value) for word in words), caught.value


def test_balanced_draws_take_half_inside() -> None:
    shapes = small(balanced=True, even=400)
    batch = shapes.batch(torch.arange(5), 40, torch.Generator().manual_seed(0))
    assert (batch.values[..., 0] < 0).sum(1).tolist() == [20] * 5


def test_a_sheet_of_shapes_is_drawn(tmp_path: Path) -> None:
    for signals in (balls(2), balls(2, 2)):
        pictures = Shape(signals.dims).draw(signals.truth(torch.arange(2)))
        assert len({picture.tobytes() for picture in pictures}) == 2
        assert (pictures < 250).any(axis=(1, 2, 3)).all()


def test_the_part_of_many_samples_that_scores_look_at_stands_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = balls(1, even=400, surface=500, near=6000)
    # two kinds of samples in turn, as Plan takes them
    shapes.samples[0].values[900::2, 3] = 0.01
    shapes.samples[0].values[901::2, 3] = 0.05
    whole = shapes.batch(torch.arange(1))
    monkeypatch.setattr("neuralfield.signals.shapes.MOST", 2000)
    part = shapes.truth(torch.arange(1))
    assert part.weight.shape[1] == 2000
    assert part.weight.sum().item() == pytest.approx(6900)
    mean = [(each.values.abs() * each.weight[..., None]).sum() / each.weight.sum() for each in (whole, part)]
    torch.testing.assert_close(mean[1], mean[0], rtol=0.05, atol=0.0)
    assert torch.equal(part.coords[:, :400], whole.coords[:, :400])
    assert part.normals is not None
    on = (part.normals != 0).any(-1)[0]
    torch.testing.assert_close(
        part.normals[0, on], part.coords[0, on] / part.coords[0, on].norm(dim=-1, keepdim=True), atol=1e-5, rtol=0
    )
    assert on.sum() > 50
