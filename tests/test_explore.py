"""What codes are worth: laws of paths, samples, neighbours, projections and lengths."""

import sys
from pathlib import Path as File

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.model_selection import LeaveOneOut, cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from synthetic import TINY, images, waves
from torch import Tensor

import neuralfield as nf
from neuralfield.errors import NeuralfieldError, UsageError
from neuralfield.explore import interpolation, neighbours, projection
from neuralfield.explore.interpolation import Density, Graph, Linear, Spherical
from neuralfield.explore.lengths import lengths, over_time
from neuralfield.explore.neighbours import Gallery, nearest_codes, training_signals
from neuralfield.explore.sampling import allowed, bank_codes, density_of, sample
from neuralfield.latents.ball import Ball
from neuralfield.latents.mixture import Mixture
from neuralfield.latents.priors import Gaussian
from neuralfield.registry import names, resolve
from neuralfield.types import Latent, spread

SHARES = torch.linspace(0, 1, 9)


def clusters(count: int = 200, dims: int = 3, apart: float = 4.0) -> Tensor:
    """Codes of two round kinds, on either side of 0 along the first dimension."""
    draw = torch.Generator().manual_seed(0)
    codes = torch.randn(2 * count, dims, generator=draw)
    codes[:count, 0] -= apart
    codes[count:, 0] += apart
    return codes


def mixture() -> Mixture:
    """One Gaussian for each of these clusters."""
    return Mixture(3, components=2).fit(clusters())


# paths


@pytest.mark.parametrize("kind", names("paths"))
def test_every_path_begins_and_ends_exactly_where_it_should(kind: str) -> None:
    codes = clusters()
    start, end = codes[[3, 250, 7]], codes[[222, 9, 8]]
    way = resolve("paths", kind)(codes).between(start, end, SHARES)
    assert way.shape == (9, 3, 3)
    assert torch.equal(way[0], start)
    assert torch.equal(way[-1], end)
    assert way.isfinite().all()


@pytest.mark.parametrize("kind", names("paths"))
def test_paths_of_several_pairs_are_those_of_each(kind: str) -> None:
    codes = clusters()
    path = resolve("paths", kind)(codes)
    both = path.between(codes[[3, 250]], codes[[222, 9]], SHARES)
    alone = path.between(codes[[250]], codes[[9]], SHARES)
    # sums over other numbers of rows are rounded otherwise
    torch.testing.assert_close(both[:, 1:], alone, rtol=0, atol=1e-4)


def test_a_linear_path_is_a_straight_line_with_even_steps() -> None:
    start, end = torch.randn(2, 5), torch.randn(2, 5)
    way = Linear(start).between(start, end, SHARES)
    torch.testing.assert_close(way[4], (start + end) / 2)
    torch.testing.assert_close(way.diff(dim=0), ((end - start) / 8).expand(8, -1, -1), rtol=0, atol=1e-6)


def test_on_the_sphere_norms_and_angles_go_evenly_from_one_end_to_the_other() -> None:
    start, end = torch.randn(6, 8), 3 * torch.randn(6, 8)
    way = Spherical(start).between(start, end, SHARES)
    expected = torch.lerp(start.norm(dim=1), end.norm(dim=1), SHARES[:, None])
    torch.testing.assert_close(way.norm(dim=2), expected, rtol=1e-4, atol=0)  # an arc cosine in float32
    angles = torch.arccos(torch.nn.functional.cosine_similarity(way, start[None], dim=2).clamp(-1, 1))
    torch.testing.assert_close(angles[1:], SHARES[1:, None] * angles[-1], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("factor", [-1.0, 0.0, 2.0])
def test_where_no_great_circle_is_defined_the_way_is_straight(factor: float) -> None:
    start = torch.randn(3, 4)
    way = Spherical(start).between(start, factor * start, SHARES)
    torch.testing.assert_close(way, Linear(start).between(start, factor * start, SHARES))


def allowed_of(path: Density, way: Tensor) -> Tensor:
    """-log p that a path may have: that of the median code, and near less likely ends a share of what these are above it."""
    above = [(path.density.cost(Latent(z)) - path.typical).clamp(min=0) for z in (way[0], way[-1])]
    return path.typical + torch.stack([a * max(0, 1 - 2 * t) + b * max(0, 2 * t - 1) for a, b in [above] for t in SHARES.tolist()])


def test_between_typical_codes_of_a_gaussian_the_density_path_is_the_straight_line() -> None:
    codes = torch.randn(500, 4) @ torch.randn(4, 4)
    prior = Gaussian(4).fit(codes)
    path = Density(codes, prior)
    typical = codes[prior.cost(Latent(codes)) <= path.typical]
    assert len(typical) == 250  # the median
    line = Linear(codes).between(typical[:100], typical[100:200], SHARES)
    assert torch.equal(path.between(typical[:100], typical[100:200], SHARES), line)


def test_the_density_is_nowhere_below_that_of_the_line_and_typical_in_the_middle() -> None:
    codes, prior = clusters(), mixture()
    path, start, end = Density(codes, prior), codes[:30], codes[200:230]

    def costs(way: Tensor) -> Tensor:
        return torch.stack([prior.cost(Latent(z)) for z in way])

    way, straight = path.between(start, end, SHARES), Linear(codes).between(start, end, SHARES)
    found, line, most = costs(way), costs(straight), allowed_of(path, straight)
    torch.testing.assert_close(most[4], torch.full((30,), path.typical))
    assert (found <= line + 1e-3).all()  # nats; of costs of about 10, summed in float32
    assert (found <= most + 1e-3).all()
    # else the laws above say nothing: between two clusters 8 apart most of the line is far below both
    assert (line[4] > most[4] + 2).float().mean() > 0.8


def test_points_that_are_likely_enough_stay_where_they_are() -> None:
    codes = clusters()
    path = Density(codes, mixture())
    line = Linear(codes).between(codes[:10], codes[10:20], SHARES)  # within one cluster
    costs = torch.stack([path.density.cost(Latent(z)) for z in line])
    stays = (costs <= allowed_of(path, line))[..., None]
    assert 0.5 < stays.float().mean() < 1
    assert torch.equal(path.between(codes[:10], codes[10:20], SHARES) * stays, line * stays)


def test_a_density_path_takes_any_prior() -> None:
    codes = clusters()
    for kind in ("gaussian", "isotropic", "kernel-density", "mixture"):
        path = Density(codes, density_of(codes, kind))
        way = path.between(codes[:2], codes[200:202], torch.tensor([0.5]))[0]
        line = (codes[:2] + codes[200:202]) / 2
        assert (path.density.cost(Latent(way)) <= path.density.cost(Latent(line)) + 1e-4).all(), kind


def ring(count: int = 60) -> Tensor:
    angle = torch.arange(count) * (2 * torch.pi / count)
    return torch.stack([angle.cos(), angle.sin()], 1)


def test_the_way_over_neighbours_follows_the_codes_and_not_the_gap_between_them() -> None:
    codes = ring()
    way = Graph(codes).between(codes[:1], codes[30:31], torch.linspace(0, 1, 21))[:, 0]
    # it goes over up to ten neighbours, five a side: chords of 30 degrees
    assert (way.norm(dim=1) > np.cos(np.deg2rad(15)) - 1e-3).all()
    assert Linear(codes).between(codes[:1], codes[30:31], torch.tensor([0.5])).norm() < 1e-5


def test_the_nodes_of_the_way_over_neighbours_are_codes_of_the_bank() -> None:
    codes = torch.arange(20.0)[:, None] ** 1.1  # ever wider gaps, in which a straight line would show
    graph = interpolation._neighbour_graph(codes, 2)
    rows = interpolation._shortest(graph, 0, 19)
    assert rows == list(range(20))
    way = interpolation._evenly(codes[rows], torch.linspace(0, 1, 5))
    torch.testing.assert_close(way, torch.linspace(0, float(codes[-1]), 5)[:, None])  # even in length


def test_codes_of_groups_far_apart_are_joined_all_the_same() -> None:
    codes = torch.cat([torch.randn(30, 2), torch.randn(30, 2) + 1000.0])
    way = Graph(codes).between(codes[:1], codes[59:], SHARES)
    assert way.isfinite().all()
    assert torch.equal(way[-1, 0], codes[59])


def test_equal_codes_are_neighbours_too() -> None:
    way = Graph(torch.zeros(12, 3)).between(torch.zeros(1, 3), torch.zeros(1, 3), SHARES)
    assert torch.equal(way, torch.zeros(9, 1, 3))


def test_interpolate_goes_from_one_signal_of_the_bank_to_another(run: nf.Run) -> None:
    way = nf.interpolate(run, 3, 8, "linear", steps=5)
    assert torch.equal(way[[0, -1]], run.codes[[3, 8]])
    torch.testing.assert_close(way[2], (run.codes[3] + run.codes[8]) / 2)
    assert torch.equal(nf.interpolate(run, 3, 8), nf.interpolate(run, 3, 8, "density", steps=9))


@pytest.mark.parametrize(("start", "steps", "path"), [(24, 9, "linear"), (-1, 9, "linear"), (0, 1, "linear"), (0, 9, "lineer")])
def test_paths_that_cannot_be_are_refused(run: nf.Run, start: int, steps: int, path: str) -> None:
    with pytest.raises(UsageError, match=r"0 to 23|2 steps|linear"):
        nf.interpolate(run, start, 1, path, steps)


# samples


def test_samples_have_the_moments_of_the_codes() -> None:
    codes = torch.randn(2000, 3) @ torch.randn(3, 3) + 5.0
    drawn = density_of(codes, "gaussian").sample(50_000, torch.Generator().manual_seed(1))
    scale = float(codes.std())
    # standard errors of 50,000 draws are below .5 % of the scale, and the pseudo-observations add less
    torch.testing.assert_close(drawn.mean(0), codes.mean(0), rtol=0, atol=0.03 * scale)
    torch.testing.assert_close(torch.cov(drawn.T), torch.cov(codes.T), rtol=0, atol=0.03 * scale**2)


def test_samples_of_a_mixture_lie_where_codes_do_and_not_between() -> None:
    codes = clusters(apart=10.0)
    drawn = density_of(codes, "mixture").sample(1000, torch.Generator().manual_seed(1))
    assert (drawn[:, 0].abs() > 5).all()
    share = (drawn[:, 0] > 0).float().mean().item()
    assert abs(share - 0.5) < 0.08  # five standard deviations of 1,000 coins
    assert (density_of(codes, "gaussian").sample(1000, torch.Generator().manual_seed(1))[:, 0].abs() < 5).any()


def test_the_seed_decides_what_is_drawn(run: nf.Run) -> None:
    assert torch.equal(nf.sample(run, 5, seed=1), nf.sample(run, 5, seed=1))
    assert not torch.equal(nf.sample(run, 5, seed=1), nf.sample(run, 5, seed=2))


def test_the_prior_of_the_fit_is_a_density_too(run: nf.Run) -> None:
    drawn = sample(run, 4, "training", seed=3)
    assert torch.equal(drawn, run.model.objective.prior.sample(4, torch.Generator().manual_seed(3)))


def test_codes_of_a_logistic_source_stay_between_0_and_1(run: nf.Run) -> None:
    codes = torch.tensor([[-0.5, 0.2, 1.5, 1.0]])
    assert torch.equal(allowed(run, codes), codes)
    run.model.source.logistic = True
    assert torch.equal(allowed(run, codes), torch.tensor([[0.0, 0.2, 1.0, 1.0]]))
    drawn = sample(run, 50, "gaussian")
    assert drawn.min() >= 0
    assert drawn.max() <= 1


def test_codes_of_a_ball_stay_in_it(run: nf.Run) -> None:
    run.model.objective.prior = Ball(4, radius=0.5)
    assert sample(run, 50, "gaussian").norm(dim=1).max() <= 0.5 * (1 + 1e-6)  # rounding
    way = nf.interpolate(run, 3, 8, "linear")
    assert way.norm(dim=1).max() <= 0.5 * (1 + 1e-6)


def test_what_cannot_be_drawn_is_refused(run: nf.Run) -> None:
    with pytest.raises(UsageError, match="at least 1"):
        sample(run, 0)
    with pytest.raises(UsageError, match='did you mean "mixture"'):
        sample(run, 3, "mixtur")


# neighbours


def labelled(count: int, seed: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(4, (count,), generator=draw) * 3  # labels need not be 0, 1, 2 ...
    codes = torch.randn(count, 5, generator=draw) + 0.4 * labels[:, None]
    return codes, labels


@pytest.mark.parametrize("count", [1, 4, 5])
def test_the_accuracy_of_neighbours_is_scikit_learns(count: int) -> None:
    (bank, labels), (codes, truth) = labelled(80, 0), labelled(60, 1)
    known = KNeighborsClassifier(count, algorithm="brute").fit(bank, labels)
    assert nf.knn_accuracy(bank, labels, codes, truth, count) == pytest.approx(known.score(codes, truth))
    left_out = cross_val_score(KNeighborsClassifier(count, algorithm="brute"), bank, labels, cv=LeaveOneOut())
    assert nf.knn_accuracy(bank, labels, count=count) == pytest.approx(left_out.mean())
    assert 0.3 < left_out.mean() < 1  # neither chance nor certain


def test_rows_without_a_label_are_no_neighbours_and_are_not_counted() -> None:
    (bank, labels), (codes, truth) = labelled(80, 0), labelled(60, 1)
    more, none = torch.cat([bank, codes]), torch.cat([labels, torch.full((60,), -1)])
    assert nf.knn_accuracy(more, none) == nf.knn_accuracy(bank, labels)
    assert nf.knn_accuracy(more, none, codes, truth) == nf.knn_accuracy(bank, labels, codes, truth)
    with pytest.raises(NeuralfieldError, match="two labelled"):
        nf.knn_accuracy(codes, torch.full((60,), -1))


def test_the_nearest_codes_are_those_of_brute_force(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "AT_ONCE", 7)
    bank, codes = torch.randn(50, 4), torch.randn(20, 4)
    apart = (codes[:, None] - bank).square().sum(2)
    assert torch.equal(nearest_codes(codes, bank, 3), apart.argsort(1)[:, :3])
    own = nearest_codes(bank, bank, 2, itself=True)
    assert not (own == torch.arange(50)[:, None]).any()
    assert torch.equal(nearest_codes(bank, bank, 3)[:, 1:], own)


def gallery(values: Tensor, weight: Tensor) -> Gallery:
    coords = torch.rand(1, values.shape[1], 2)
    return Gallery(coords, values, weight, torch.arange(len(values)), [str(i) for i in range(len(values))], True)


@pytest.mark.parametrize("size", [3, 1000])
def test_the_nearest_signal_is_that_of_brute_force_over_the_points_known_of_both(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbours, "AT_ONCE", size)
    ours = gallery(torch.randn(11, 20, 2), (torch.rand(11, 20) > 0.3).float())
    others = gallery(torch.randn(8, 20, 2), (torch.rand(8, 20) > 0.3).float())
    both = others.weight[:, None] * ours.weight
    squares = (others.values[:, None] - ours.values).square().mean(3)
    expected = ((squares * both).sum(2) / both.sum(2)).min(1)
    found, rows = ours.nearest(others)
    assert torch.equal(rows, expected.indices)
    torch.testing.assert_close(found, expected.values)


def test_a_signal_with_no_point_in_common_is_never_the_nearest() -> None:
    weight = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    ours = gallery(torch.tensor([[[0.0], [0.0]], [[0.0], [9.0]]]), weight)
    one = gallery(torch.zeros(1, 2, 1), torch.tensor([[0.0, 1.0]]))
    found, rows = ours.nearest(one)
    assert (rows.tolist(), found.tolist()) == ([1], [81.0])


def test_images_are_compared_as_they_are(run: nf.Run) -> None:
    signals = training_signals(run)
    assert signals is not None
    held = Gallery.of(run, signals)
    assert held.real
    distances, rows = held.nearest(Gallery.of(run, signals))
    assert torch.equal(rows, torch.arange(24))
    assert torch.equal(distances, torch.zeros(24))
    shown = Gallery.of_codes(run, run.codes)
    error = run.domain.score(run.field(run.codes), signals.truth(torch.arange(24)))["mse"]
    torch.testing.assert_close(held.apart(shown, torch.arange(24)), error)


def test_of_many_signals_some_are_looked_through_and_keep_their_numbers(run: nf.Run) -> None:
    signals = training_signals(run)
    part = Gallery.of(run, signals, most=5)
    assert torch.equal(part.index, spread(24, 5))
    assert part.ids == [run.ids[i] for i in part.index.tolist()]
    bank = Gallery.of(run, None, most=5)
    assert not bank.real
    torch.testing.assert_close(bank.values, Gallery.of_codes(run, run.codes[part.index]).values)


def test_curves_at_times_of_their_own_are_compared_as_fields(fitted_curves: File) -> None:
    run = nf.Run.load(fitted_curves)
    held = Gallery.of(run, waves(40))
    assert not held.real
    distances, rows = held.nearest(Gallery.of_codes(run, run.codes))
    assert torch.equal(rows, torch.arange(40))
    assert distances.max() == 0


def test_signals_that_are_not_there_any_more_are_no_error(run: nf.Run, fitted_curves: File) -> None:
    assert run.recipe.signals is not None
    moved = run.recipe.signals.model_copy(update={"path": "nowhere.npz"})
    run.recipe = run.recipe.model_copy(update={"signals": moved})
    assert training_signals(run) is None
    assert training_signals(nf.Run.load(fitted_curves)) is None  # fitted to curves given in Python


# projections


def test_the_plane_of_pca_is_scikit_learns() -> None:
    codes = torch.randn(60, 5) * torch.arange(1.0, 6.0)
    ours, theirs = nf.project(codes, "pca").numpy(), PCA(2).fit_transform(codes.numpy())
    signs = np.sign((ours * theirs).sum(0))
    np.testing.assert_allclose(ours, signs * theirs, atol=1e-3)  # float32 codes of size 5, whose covariance is squared


def test_codes_of_one_number_lie_on_a_line() -> None:
    plane = nf.project(torch.randn(10, 1))
    assert plane.shape == (10, 2)
    assert torch.equal(plane[:, 1], torch.zeros(10))


def test_tsne_keeps_clusters_apart_and_is_the_same_every_time() -> None:
    codes = clusters(count=20, apart=10.0)
    plane = nf.project(codes, "tsne")
    assert torch.equal(plane, nf.project(codes, "tsne"))
    labels = (torch.arange(40) >= 20).long()
    assert nf.knn_accuracy(plane, labels) == 1


def test_projections_that_cannot_be_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match='did you mean "tsne"'):
        nf.project(torch.randn(10, 2), "tsnee")
    with pytest.raises(NeuralfieldError, match="at least 5 codes"):
        nf.project(torch.randn(4, 2), "tsne")
    monkeypatch.setattr(projection, "find_spec", lambda name: None)
    with pytest.raises(NeuralfieldError, match=r"pip install 'neuralfield\[umap\]'"):
        nf.project(torch.randn(10, 2), "umap")


def test_umap_is_asked_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    class UMAP:  # a stand-in: the package is an extra, which this machine may not have
        def __init__(self, n_neighbors: int, random_state: int) -> None:
            assert (n_neighbors, random_state) == (9, 0)

        def fit_transform(self, codes: np.ndarray) -> np.ndarray:
            return codes[:, :2] * 2

    monkeypatch.setattr(projection, "find_spec", lambda name: name)
    monkeypatch.setitem(sys.modules, "umap", type(sys)("umap"))
    monkeypatch.setattr(sys.modules["umap"], "UMAP", UMAP, raising=False)
    codes = torch.randn(10, 3)
    assert torch.equal(nf.project(codes, "umap"), codes[:, :2] * 2)


# lengths


def test_a_fit_keeps_how_long_codes_were_after_each_epoch(tmp_path: File) -> None:
    run = nf.fit(images(), recipe="image", settings=[*TINY, "training.polish=0"], epochs=3, out=tmp_path / "run", device="cpu")
    kept = over_time(nf.Run.load(tmp_path / "run"))
    assert kept.shape == (3, 2)
    probes = lengths(run.codes[spread(24, 12)])
    torch.testing.assert_close(kept[-1], torch.stack([probes.mean(), probes.std(correction=0)]))


def test_a_run_that_kept_no_lengths_has_none(run: nf.Run) -> None:
    run.facts.pop("code_lengths")
    assert over_time(run).shape == (0, 2)
    assert torch.equal(lengths(torch.tensor([[3.0, 4.0]])), torch.tensor([5.0]))


def test_a_run_without_codes_has_nothing_to_explore(run: nf.Run) -> None:
    run.model.source.codes = torch.nn.Parameter(torch.zeros(1, 0))
    with pytest.raises(NeuralfieldError, match="no codes"):
        bank_codes(run)
