"""Surfaces, distances to them, and their extraction: against closed forms and the dense grid."""

import numpy as np
import pytest
import torch
import trimesh
from scipy.spatial import cKDTree
from skimage.measure import marching_cubes
from torch import Tensor

from neuralfield.domains.surfaces import Surface, extracted
from neuralfield.signals.distances import Plan, signed_distance
from neuralfield.types import Field


def sphere(radius: float = 0.7, dims: int = 3, centre: float = 0.0) -> Field:
    return Field(lambda c, t: (t - c[:, :1]).norm(dim=-1, keepdim=True) - radius, torch.full((1, 1), centre), coord_dim=dims)


def ball(subdivisions: int = 5) -> Surface:
    mesh = trimesh.creation.icosphere(subdivisions)
    return Surface(np.asarray(mesh.vertices), np.asarray(mesh.faces))


def circle(corners: int = 400) -> Surface:
    angle = np.arange(corners) * 2 * np.pi / corners
    edges = np.stack([np.arange(corners), (np.arange(corners) + 1) % corners], 1)
    return Surface(np.stack([np.cos(angle), np.sin(angle)], 1), edges)


@pytest.mark.parametrize(("make", "dims", "atol"), [(ball, 3, 1e-3), (circle, 2, 1e-4)])
def test_distances_to_a_sphere_are_those_of_its_formula(make, dims: int, atol: float) -> None:
    points = np.random.default_rng(0).uniform(-1.3, 1.3, (3000, dims))
    np.testing.assert_allclose(signed_distance(make(), points), np.linalg.norm(points, axis=1) - 1, atol=atol)


def test_distances_to_a_box_are_exact() -> None:
    box = trimesh.creation.box((1.0, 0.6, 1.4))
    points = np.random.default_rng(0).uniform(-1, 1, (2000, 3))
    beyond = np.abs(points) - np.array([0.5, 0.3, 0.7])
    exact = np.linalg.norm(np.maximum(beyond, 0), axis=1) + np.minimum(beyond.max(1), 0)
    found = signed_distance(Surface(np.asarray(box.vertices), np.asarray(box.faces)), points)
    np.testing.assert_allclose(found, exact, atol=1e-12)


def test_signs_stay_right_where_a_mesh_has_holes() -> None:
    whole, random = ball(4), np.random.default_rng(0)
    holed = Surface(whole.vertices, whole.elements[random.random(len(whole)) > 0.05])
    points = random.uniform(-1.2, 1.2, (5000, 3))
    far = np.abs(np.linalg.norm(points, axis=1) - 1) > 0.05
    assert np.array_equal(signed_distance(holed, points[far]) < 0, np.linalg.norm(points[far], axis=1) < 1)


@pytest.mark.parametrize("make", [ball, circle])
def test_points_of_a_surface_lie_on_it_evenly_with_its_normals(make) -> None:
    surface = make()
    points, normals = surface.sample(20_000, np.random.default_rng(0))
    assert np.abs(np.linalg.norm(points, axis=1) - 1).max() < 2e-3
    assert ((points * normals).sum(1) > 0.99).all()  # outward
    assert np.abs(points.mean(0)).max() < 0.02
    # half of them in each half of every axis, within four standard errors
    assert np.abs((points > 0).mean(0) - 0.5).max() < 4 * 0.5 / 20_000**0.5


def test_volumes_are_signed() -> None:
    assert ball().volume == pytest.approx(4 / 3 * np.pi, rel=1e-3)
    assert circle().volume == pytest.approx(np.pi, rel=1e-3)
    assert Surface(ball().vertices, ball().elements[:, ::-1]).volume < 0


@pytest.mark.parametrize(("dims", "resolution"), [(3, 128), (3, 65), (3, 50), (2, 256), (2, 33)])
def test_an_extracted_sphere_has_its_radius_and_faces_outward(dims: int, resolution: int) -> None:
    surface, evaluated = extracted(sphere(dims=dims), resolution, dims)
    step = 2 / (resolution - 1)
    # linear interpolation over a step: an error of step^2 / 8 / radius, at most
    assert np.abs(np.linalg.norm(surface.vertices, axis=1) - 0.7).max() < step**2 / 8 / 0.7 + 1e-6
    assert surface.volume == pytest.approx(4 / 3 * np.pi * 0.7**3 if dims == 3 else np.pi * 0.7**2, rel=step**2 * 4)
    assert evaluated < resolution**dims


def rippled(c: Tensor, t: Tensor) -> Tensor:
    """Two parts, one of them thin; steeper than a distance in places."""
    plate = torch.maximum(t[..., 1:2].abs() - 0.02, t[..., :1].hypot(t[..., 2:]) - 0.8)
    bump = (t - torch.tensor([0.3, 0.5, 0.1])).norm(dim=-1, keepdim=True) - 0.2
    return torch.minimum(plate, bump) + 0.003 * torch.sin(40 * t[..., :1])


@pytest.mark.parametrize("resolution", [64, 97])
def test_what_is_extracted_is_what_the_whole_grid_gives(resolution: int) -> None:
    field = Field(rippled, torch.zeros(1, 1), coord_dim=3)
    surface, evaluated = extracted(field, resolution)
    axis = torch.linspace(-1, 1, resolution)
    grid = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(1, -1, 3)
    values = field(grid)[0, :, 0].reshape(resolution, resolution, resolution).numpy()
    vertices = marching_cubes(values, 0.0)[0] * 2 / (resolution - 1) - 1
    assert len(vertices) == len(surface.vertices)
    assert cKDTree(vertices).query(surface.vertices)[0].max() < 1e-5
    assert evaluated < 0.35 * values.size


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("radius", [-0.1, 3.0])
def test_a_field_without_a_surface_gives_an_empty_one(dims: int, radius: float) -> None:
    assert len(extracted(sphere(radius, dims), 40, dims)[0]) == 0


def test_a_plan_takes_what_it_says() -> None:
    samples, normals = Plan(even=500, surface=300, near=400, spread=0.05).take(ball(), np.random.default_rng(0))
    assert samples.shape == (1200, 4)
    assert samples.dtype == normals.dtype == np.float32
    np.testing.assert_allclose(normals, samples[500:800, :3], atol=0.1)
    exact = np.linalg.norm(samples[:, :3], axis=1) - 1
    np.testing.assert_allclose(samples[:, 3], exact, atol=1e-3)
    assert (samples[500:800, 3] == 0).all()
    assert np.abs(samples[:500, :3]).max() <= 1
    # half with a spread of .05, half with a third of it: along the normal
    assert exact[800:].std() == pytest.approx(0.05 * (0.55) ** 0.5, rel=0.15)


@pytest.mark.parametrize(("factor", "bounded"), [(3, False), (3, True), (5, True)])
def test_small_parts_of_fields_that_are_no_distances_are_found(factor: float, bounded: bool) -> None:
    def evaluate(z: torch.Tensor, coords: torch.Tensor) -> torch.Tensor:
        large, small = coords.norm(dim=-1, keepdim=True) - 0.5, (coords - 0.8).norm(dim=-1, keepdim=True) - 0.04
        values = factor * torch.minimum(large, small)
        return values.tanh() if bounded else values

    surface, _ = extracted(Field(evaluate, torch.zeros(1, 1)), 128)
    assert (np.abs(surface.vertices - 0.8).max(1) < 0.05).sum() > 50
