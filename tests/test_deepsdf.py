"""DeepSDF (Park et al. 2019): its network, its training, its data folders and its experiments, against a plain one written here."""

import json
import math
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import Nf, failed, warned
from contracts.signals import SignalsContract
from test_training import Watching, identical
from torch import Tensor, nn
from torch.nn.functional import dropout

import neuralfield as nf
from neuralfield.decoders.concat import Concat
from neuralfield.errors import NeuralfieldError, NeuralfieldWarning, UsageError
from neuralfield.export.deepsdf import read_experiment, write_experiment
from neuralfield.latents.bank import Bank
from neuralfield.recipe import Recipe, Training, build
from neuralfield.seeds import generator
from neuralfield.signals.shapes import Sampled, Shapes
from neuralfield.signals.signals import Signals, load
from neuralfield.training.batches import Batches
from neuralfield.training.interrupt import InterruptedFitError
from neuralfield.training.loop import Position, ramp_share, rate_factor, train
from neuralfield.training.optimisers.dense_adam import dense_adam
from neuralfield.training.schedules.joint import Joint
from neuralfield.training.schedules.schedule import Optimisers
from neuralfield.types import Observations

pytestmark = pytest.mark.usefixtures("ctrl_c")

CODE, WIDTH, DEPTH, SKIP = 5, 24, 4, 2
SMALL = [
    f"latents.code_dim={CODE}",
    f"decoder.width={WIDTH}",
    f"decoder.depth={DEPTH}",
    f"decoder.skip={SKIP}",
    "training.batch=4",
    "training.points=60",
    "training.epochs=4",
    "training.ramp=3",
    "training.halve_every=2",
    "inference.steps=5",
]
"""Settings that turn the recipe `deepsdf` into one that fits in a second."""


class Plain(nn.Module):
    """The published network: codes beside coordinates in every row, joined again at `skip`; g v / |v| by hand; tanh at the end."""

    def __init__(self, share: float = 0.0, normed: tuple[int, ...] = tuple(range(DEPTH)), seed: int = 0) -> None:
        super().__init__()
        self.share, self.normed = share, normed
        entering = CODE + 3
        ins = [entering] + [WIDTH] * DEPTH
        outs = [WIDTH - entering if layer + 1 == SKIP else WIDTH for layer in range(DEPTH)] + [1]
        draw = torch.Generator().manual_seed(seed)
        for layer, (i, o) in enumerate(zip(ins, outs, strict=True)):
            self.register_parameter(f"v{layer}", nn.Parameter(torch.randn(o, i, generator=draw) / i**0.5))
            self.register_parameter(f"g{layer}", nn.Parameter(torch.rand(o, 1, generator=draw) + 0.5))
            self.register_parameter(f"b{layer}", nn.Parameter(torch.randn(o, generator=draw) * 0.1))

    def forward(self, rows: Tensor) -> Tensor:
        x = rows
        for layer in range(DEPTH + 1):
            v, g, b = (getattr(self, f"{letter}{layer}") for letter in "vgb")
            weight = g * v / v.square().sum(1, keepdim=True).sqrt() if layer in self.normed else v
            x = torch.cat([x, rows], 1) if layer == SKIP else x
            x = x @ weight.T + b
            if layer < DEPTH:
                x = dropout(x.clamp(min=0), self.share, self.training)
        return x.tanh()

    def at(self, z: Tensor, coords: Tensor) -> Tensor:
        """Values [B, N, 1] of codes [B, D] at points [B, N, 3]."""
        b, n, _ = coords.shape
        return self(torch.cat([z.repeat_interleave(n, 0), coords.reshape(-1, 3)], 1)).reshape(b, n, 1)

    def state(self, prefix: str = "module.") -> dict[str, Tensor]:
        """As DeepSDF's checkpoints have it."""
        state = {}
        for layer in range(DEPTH + 1):
            v, g, b = (getattr(self, f"{letter}{layer}").detach().clone() for letter in "vgb")
            weights = {"weight_g": g, "weight_v": v} if layer in self.normed else {"weight": v}
            state |= {f"{prefix}lin{layer}.{key}": value for key, value in {"bias": b, **weights}.items()}
        return state


def specs(**changes: Any) -> dict[str, Any]:
    network = {
        "dims": [WIDTH] * DEPTH,
        "dropout": list(range(DEPTH)),
        "dropout_prob": 0.2,
        "norm_layers": list(range(DEPTH)),
        "latent_in": [SKIP],
        "xyz_in_all": False,
        "use_tanh": False,
        "latent_dropout": False,
        "weight_norm": True,
    }
    described = {"NetworkArch": "deep_sdf_decoder", "CodeLength": CODE, "CodeBound": 1.0, "ClampingDistance": 0.1}
    own = {key: value for key, value in changes.items() if key in network or key.islower()}
    return described | {"NetworkSpecs": network | own} | {key: value for key, value in changes.items() if key not in own}


def experiment(folder: Path, plain: Plain, codes: Tensor, form: str = "embedding", prefix: str = "module.", **changes: Any) -> Path:
    """An experiment as DeepSDF writes it."""
    for name in ("ModelParameters", "LatentCodes"):
        (folder / name).mkdir(parents=True)
    (folder / "specs.json").write_text(json.dumps(specs(**changes)))
    torch.save({"epoch": 7, "model_state_dict": plain.state(prefix)}, folder / "ModelParameters" / "latest.pth")
    held = {"embedding": {"weight": codes}, "list": codes[:, None], "matrix": codes}[form]
    torch.save({"epoch": 7, "latent_codes": held}, folder / "LatentCodes" / "latest.pth")
    return folder


@pytest.fixture
def codes() -> Tensor:
    return torch.randn(6, CODE, generator=torch.Generator().manual_seed(3)) * 0.3


@pytest.fixture
def coords() -> Tensor:
    return torch.rand(6, 40, 3, generator=torch.Generator().manual_seed(4)) * 2 - 1


def ball(radius: float, count: int = 300, seed: int = 0) -> np.ndarray:
    """Samples [n, 4] of a ball."""
    points = np.random.default_rng(seed).uniform(-0.9, 0.9, (count, 3))
    return np.concatenate([points, np.linalg.norm(points, axis=1, keepdims=True) - radius], 1).astype(np.float32)


def balls(count: int = 6) -> Shapes:
    return Shapes([ball(0.3 + 0.06 * i, seed=i) for i in range(count)], [f"ball-{i}" for i in range(count)])


# the network


def of(plain: Plain, **arguments: Any) -> Concat:
    """Our decoder with the same weights."""
    decoder = Concat(3, 1, CODE, WIDTH, DEPTH, SKIP, weight_norm=True, bounded=True, **arguments)
    state = {"features.frequencies": decoder.features.frequencies, "out.weight": plain.v4, "out.bias": plain.b4}
    for layer in range(DEPTH):
        state |= {f"layers.{layer}.bias": getattr(plain, f"b{layer}")}
        state |= {f"layers.{layer}.parametrizations.weight.original{k}": getattr(plain, f"{x}{layer}") for k, x in enumerate("gv")}
    decoder.load_state_dict(state)
    return decoder


def test_the_decoder_is_deepsdfs_in_values_and_gradients(codes: Tensor, coords: Tensor) -> None:
    plain = Plain().double()
    decoder = of(plain).double()
    ours, theirs = codes.double().requires_grad_(), codes.double().requires_grad_()
    coords = coords.double()
    values, expected = decoder(ours, coords), plain.at(theirs, coords)
    torch.testing.assert_close(values, expected, rtol=1e-12, atol=1e-13)
    values.square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-11, atol=1e-12)
    for layer in range(DEPTH):
        g, v = (getattr(decoder.layers[layer].parametrizations.weight, f"original{k}").grad for k in (0, 1))
        torch.testing.assert_close(g, getattr(plain, f"g{layer}").grad, rtol=1e-11, atol=1e-12)
        torch.testing.assert_close(v, getattr(plain, f"v{layer}").grad, rtol=1e-11, atol=1e-12)


def test_dropout_is_after_every_hidden_layer_and_only_while_training(codes: Tensor, coords: Tensor) -> None:
    plain = Plain(share=0.2)
    decoder = of(plain, dropout=0.2)
    drawn = []
    for network in (decoder, plain.at):
        torch.manual_seed(5)  # both draw one number for each number of each layer, in the same order
        drawn.append(network(codes, coords))
    torch.testing.assert_close(*drawn, rtol=1e-4, atol=1e-5)
    plain.eval(), decoder.eval()
    torch.testing.assert_close(decoder(codes, coords), plain.at(codes, coords), rtol=1e-4, atol=1e-5)
    assert torch.equal(decoder(codes, coords), decoder(codes, coords))


def test_a_layer_without_weight_norm_begins_as_the_same_function() -> None:
    made = []
    for normed in (False, True):
        torch.manual_seed(0)
        made.append(Concat(3, 1, CODE, WIDTH, DEPTH, SKIP, weight_norm=normed))
    z, coords = torch.randn(2, CODE), torch.rand(1, 9, 3)
    torch.testing.assert_close(made[0](z, coords), made[1](z, coords), rtol=1e-5, atol=1e-6)


def test_each_weight_is_computed_once_in_a_call(codes: Tensor, coords: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder, calls, once = of(Plain()).eval(), [], torch._weight_norm
    monkeypatch.setattr(torch, "_weight_norm", lambda *of_layer: calls.append(1) or once(*of_layer))
    conditioning = decoder.condition(codes)
    assert len(calls) == 2  # of the two layers that codes enter
    decoder.evaluate(conditioning, coords)
    assert len(calls) == 2 + DEPTH


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match=r"decoder\.dropout"):
        Concat(3, 1, CODE, dropout=share)


# the pieces of its training


def seen(index: list[int]) -> Observations:
    return balls().batch(torch.tensor(index))


def test_codes_are_bounded_as_by_torchs_embedding() -> None:
    bank, theirs = Bank(6, CODE, bound=1.0), nn.Embedding(6, CODE, max_norm=1.0)
    with torch.no_grad():
        bank.codes.copy_(torch.randn(6, CODE) * torch.tensor([0.01, 1, 1, 1, 5, 5])[:, None])
        theirs.weight.copy_(bank.codes)
    index = [4, 0, 4, 2]
    assert torch.equal(bank(seen(index)).mean, theirs(torch.tensor(index)))
    assert torch.equal(bank.codes, theirs.weight)  # row 5 stays as it was
    before = bank.codes.clone()
    assert torch.equal(bank.eval()(seen([5])).mean, before[5:])
    assert torch.equal(bank.codes, before)


def test_a_bound_that_is_not_positive_is_refused() -> None:
    with pytest.raises(ValueError, match=r"latents.bound must be positive, got 0"):
        Bank(6, CODE, bound=0.0)


def test_dense_adam_is_torchs_on_gradients_that_are_zero_for_absent_rows() -> None:
    ours, theirs = (nn.Parameter(torch.ones(5, 2)) for _ in range(2))
    sparse, dense = dense_adam([ours]), torch.optim.Adam([theirs])
    for step in range(6):
        rows = torch.tensor([[step % 2, 3], [0, 2], [1, 1]][step % 3])
        for p, optimiser in ((ours, sparse), (theirs, dense)):
            for group in optimiser.param_groups:
                group["lr"] = 0.1 / (1 + step)
            optimiser.zero_grad()
            rows_of_it = nn.functional.embedding(rows, p, sparse=optimiser is sparse)
            (rows_of_it * torch.tensor([1.0, -3.0])).square().sum().backward()
            optimiser.step()
        assert torch.equal(ours, theirs)
    assert ours[4].eq(1).all()  # a row that was never met has no momentum


def test_rates_are_halved_as_deepsdf_counts_epochs() -> None:
    settings = Training(decay="halving", halve_every=500, warmup=0)
    # its epochs count from 1, ours from 0
    assert all(rate_factor(0.5, settings, epoch) == 0.5 ** ((epoch + 1) // 500) for epoch in range(0, 2001, 7))
    assert [rate_factor(0.5, settings, epoch) for epoch in (0, 498, 499, 998, 999, 2000)] == [1, 1, 0.5, 0.5, 0.25, 0.0625]


def test_the_prior_grows_as_in_deepsdf() -> None:
    assert [ramp_share(epoch, Training(ramp=100)) for epoch in (0, 49, 98, 99, 500)] == [0.01, 0.5, 0.99, 1, 1]
    assert ramp_share(0, Training()) == 1


class Whole(Batches):
    """All points of the shapes of a batch, in float64."""

    def __init__(self, shapes: Shapes) -> None:
        self.shapes, self.count = shapes, len(shapes)

    def batch(self, items: Tensor, generator: torch.Generator) -> Observations:
        batch = self.shapes.batch(items)
        return Observations(items, batch.coords.double(), batch.values.double(), batch.weight.double())


def test_a_fit_takes_the_steps_of_deepsdfs_own_training() -> None:
    shapes, lam, epochs, clamp, n = balls(6), 0.01, 6, 0.1, 300
    # nats of scale 1, so that the gradients of the weights are DeepSDF's own; of the prior's weight, see docs/maths.md
    settings = [*SMALL, "decoder.dropout=0", "likelihood.scale=1", f"prior.weight={lam * n}", "training.batch=2"]
    recipe = Recipe.load("deepsdf", [*settings, "domain.dims=3", "domain.even=0", "training.decoder_rate=1e-3"])
    model, plain = build(recipe, 6), Plain(normed=tuple(range(DEPTH))).double()
    model.decoder.load_state_dict(of(plain).state_dict())
    for part in (model.decoder, model.source, model.objective):
        part.double()
    codes = nn.Embedding(6, CODE, max_norm=1.0).double()
    with torch.no_grad():
        codes.weight.mul_(0.6)
        model.source.codes.copy_(codes.weight)
    optimisers = Optimisers(dense_adam(model.source.parameters()), torch.optim.Adam(model.decoder.parameters()))
    steps = epochs * 3
    for _ in train(model, optimisers, Joint(), Whole(shapes), recipe.training, Position(), 0, lambda at: at.steps / steps):
        # between steps, searches and pictures see the whole prior and no dropout
        assert model.objective.ramp == 1
        assert not model.decoder.training
        assert not model.source.training
    adam = torch.optim.Adam([{"params": plain.parameters()}, {"params": codes.parameters()}])
    for epoch in range(1, epochs + 1):
        for group, rate in zip(adam.param_groups, (1e-3, 1e-3), strict=True):
            group["lr"] = rate * 0.5 ** (epoch // 2)
        for items in torch.randperm(6, generator=generator(0, epoch - 1)).split(2):
            batch = Whole(shapes).batch(items, torch.Generator())
            rows = codes(items.repeat_interleave(n))
            predicted = plain(torch.cat([rows, batch.coords.reshape(-1, 3)], 1)).clamp(-clamp, clamp)
            wanted = batch.values.reshape(-1, 1).clamp(-clamp, clamp)
            penalty = lam * min(1, epoch / 3) * rows.norm(dim=1).sum()
            loss = ((predicted - wanted).abs().sum() + penalty) / len(rows)
            adam.zero_grad()
            loss.backward()
            adam.step()
    # Adam's epsilon (1e-8) meets code gradients that are as many times larger here as the batch has shapes
    torch.testing.assert_close(model.source.codes, codes.weight, rtol=1e-4, atol=1e-6)
    assert (codes.weight.norm(dim=1) - 1).abs().min() < 0.01  # the bound has been met
    coords = torch.rand(6, 30, 3, dtype=torch.float64) * 2 - 1
    torch.testing.assert_close(model.decoder(codes.weight, coords), plain.at(codes.weight, coords), rtol=1e-4, atol=1e-6)


def test_the_recipe_is_the_published_one() -> None:
    recipe = Recipe.load("deepsdf")
    assert recipe.latents.arguments["std"] == 1 / math.sqrt(256)
    assert (recipe.training.decoder_rate, recipe.training.latent_rate, recipe.training.epochs) == (5e-4, 1e-3, 2001)
    likelihood, prior = recipe.likelihood, recipe.prior
    assert likelihood is not None
    # 1e-4 |z| beside a mean over 500,000 samples
    assert prior.arguments["weight"] == pytest.approx(1e-4 * 500_000 / likelihood.arguments["scale"])
    model = build(Recipe.load("deepsdf", ["domain.dims=3", "domain.even=0"]), 2)
    count = sum(p.numel() for p in model.decoder.parameters())
    inner = 259 * 512 + 2 * 512 * 512 + 512 * 253 + 4 * 512 * 512
    assert count == inner + 512 + 2 * (7 * 512 + 253) + 1  # weights, out, and a bias and a length for each hidden unit


@pytest.fixture(scope="module")
def uninterrupted() -> nf.Run:
    return nf.fit(balls(5), recipe="deepsdf", settings=SMALL)


def test_a_fit_with_dropout_that_is_interrupted_and_resumed_ends_bit_identical(uninterrupted: nf.Run, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(InterruptedFitError):
        nf.fit(balls(5), recipe="deepsdf", settings=SMALL, out=folder, progress=Watching(3))
    torch.manual_seed(3)
    resumed = nf.fit(balls(5), out=folder, resume=True)
    assert identical(resumed, uninterrupted)
    assert identical(nf.Run.load(folder), uninterrupted)


def test_fitting_with_dropout_leaves_torchs_own_random_numbers_alone(uninterrupted: nf.Run) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    assert identical(nf.fit(balls(5), recipe="deepsdf", settings=SMALL), uninterrupted)
    assert torch.equal(torch.get_rng_state(), before)
    assert not uninterrupted.decoder.training


# its data folders


def write_samples(file: Path, radius: float = 0.5, seed: int = 0, **changes: Any) -> Path:
    samples = ball(radius, seed=seed)
    arrays = {"pos": samples[samples[:, 3] >= 0], "neg": samples[samples[:, 3] < 0]} | changes
    file.parent.mkdir(parents=True, exist_ok=True)
    np.savez(file, **{name: array for name, array in arrays.items() if array is not None})
    return file


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder with five shapes of two classes."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = tmp_path / "data"
    for i, (category, name) in enumerate([("lamps", "b"), ("lamps", "a"), ("chairs", "c"), ("chairs", "d"), ("chairs", "e")]):
        write_samples(root / "SdfSamples" / "set" / category / f"{name}.npz", 0.3 + 0.1 * i, i)
    return root


class TestFolder(SignalsContract):
    @pytest.fixture
    def signals(self, folder: Path) -> Signals:
        return load(f"deepsdf:{folder}")


def test_without_split_files_everything_is_read_in_order(folder: Path) -> None:
    shapes = load(f"deepsdf:{folder}", split="test")
    assert shapes.ids == ["c", "d", "e", "a", "b"]
    assert shapes.labels is not None
    assert shapes.labels.tolist() == [0, 0, 0, 1, 1]
    expected = ball(0.4, seed=1)  # lamps/a
    truth = shapes.truth(torch.tensor([3]))
    found = torch.cat([truth.coords, truth.values], -1)[0, truth.weight[0] > 0]
    assert sorted(map(tuple, found.tolist())) == sorted(map(tuple, expected.tolist()))
    assert (truth.values[0].diff(dim=0).sign() != 0).any()


def test_a_split_file_chooses_and_orders(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = {"set": {"lamps": ["b", "a"], "chairs": ["e"]}}, {"set": {"chairs": ["d"]}}
    (folder / "splits").mkdir()
    (folder / "splits" / "sv2_train.json").write_text(json.dumps(train))
    (folder / "test.json").write_text(json.dumps(test))
    assert load(f"deepsdf:{folder}").ids == ["b", "a", "e"]
    assert load(f"deepsdf:{folder}", split="test").ids == ["d"]
    assert load(f"deepsdf:{folder}", split="test").labels.tolist() == [0]  # of all classes of the folder
    assert load(f"deepsdf:{folder}", splits="test.json").ids == ["d"]
    assert load(f"deepsdf:{folder}", splits="sv2_train.json").ids == ["b", "a", "e"]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.json").write_text(json.dumps({"set": {"lamps": ["a"]}}))
    assert load(f"deepsdf:{folder}", splits="mine.json").ids == ["a"]


def test_names_that_two_classes_share_have_their_class_before_them(folder: Path) -> None:
    write_samples(folder / "SdfSamples" / "set" / "lamps" / "c.npz")
    assert load(f"deepsdf:{folder}").ids == ["chairs/c", "chairs/d", "chairs/e", "lamps/a", "lamps/b", "lamps/c"]


def test_rows_that_are_no_numbers_are_dropped(folder: Path) -> None:
    samples = ball(0.5)
    samples[:10, 3] = np.nan
    samples[10:15, 0] = np.inf
    write_samples(folder / "SdfSamples" / "set" / "lamps" / "a.npz", pos=samples[:100], neg=samples[100:])
    truth = load(f"deepsdf:{folder}").truth(torch.tensor([3]))
    assert truth.observed.item() == 285
    assert truth.values.isfinite().all()


def test_frames_come_from_the_normalisation_where_there_is_one(folder: Path) -> None:
    file = folder / "NormalizationParameters" / "set" / "lamps" / "a.npz"
    file.parent.mkdir(parents=True)
    np.savez(file, offset=np.array([1.0, -2.0, 3.0]), scale=np.float32(0.25))
    frames = load(f"deepsdf:{folder}").frames
    assert frames is not None
    point, (centre, scale) = torch.tensor([5.0, 6.0, 7.0]), (frames[3, :3], frames[3, 3])
    torch.testing.assert_close((point - centre) / scale, (point + torch.tensor([1.0, -2.0, 3.0])).double() * 0.25)
    assert frames[0].tolist() == [0, 0, 0, 1]


def test_nothing_is_written_into_the_folder_and_files_are_read_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def there() -> list[tuple[str, int]]:
        return sorted((str(path), path.stat().st_mtime_ns) for path in folder.rglob("*"))

    before = there()
    first = load(f"deepsdf:{folder}").truth(torch.arange(5))
    assert there() == before
    monkeypatch.setattr("neuralfield.signals.deepsdf._read", None)  # it is not asked again
    again = load(f"deepsdf:{folder}").truth(torch.arange(5))
    assert torch.equal(again.values, first.values)
    assert torch.equal(again.coords, first.coords)


def test_a_file_that_has_changed_is_read_again(folder: Path) -> None:
    before = load(f"deepsdf:{folder}").truth(torch.tensor([3]))
    write_samples(folder / "SdfSamples" / "set" / "lamps" / "a.npz", 0.7, 1)
    after = load(f"deepsdf:{folder}").truth(torch.tensor([3]))
    assert not torch.equal(before.values.sort(1).values, after.values.sort(1).values)


def test_more_shapes_are_mapped_than_files_may_be_open(tmp_path: Path) -> None:
    for i in range(80):
        write_samples(tmp_path / "data" / "SdfSamples" / "set" / "balls" / f"{i}.npz", seed=i)
    script = f"""
import resource
import torch
from neuralfield.signals.signals import load
resource.setrlimit(resource.RLIMIT_NOFILE, (50, 50))
shapes = load("deepsdf:{tmp_path / "data"}")
print(len(shapes), shapes.batch(torch.arange(80), 8).values.shape[0])
"""
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    assert done.stdout.split() == ["80", "80"], done.stderr[-500:]


@pytest.mark.parametrize("known", [True, False])
def test_a_balanced_draw_takes_half_of_its_points_inside(folder: Path, known: bool) -> None:
    shapes = load(f"deepsdf:{folder}", balanced=True)
    assert isinstance(shapes, Shapes)
    if not known:  # as of meshes, whose samples lie in another order
        shapes = Shapes([part.values[::-1].copy() for part in shapes.samples], shapes.ids, balanced=True)
    shapes = shapes.select(torch.tensor([4, 1]))
    batch = shapes.batch(torch.arange(2), 1001, torch.Generator().manual_seed(0))
    assert (batch.values[..., 0] < 0).sum(1).tolist() == [501, 501]
    truth = shapes.truth(torch.arange(2))
    torch.testing.assert_close(batch.observed, truth.observed)  # they stand for all
    for row in range(2):
        both = torch.cat([truth.coords[row], truth.values[row]], 1)[truth.weight[row] > 0]
        drawn = torch.cat([batch.coords[row], batch.values[row]], 1)
        assert {tuple(sample) for sample in drawn.tolist()} <= {tuple(sample) for sample in both.tolist()}
        assert len(drawn.unique(dim=0)) > 0.6 * len(both)


def test_a_balanced_draw_of_a_shape_without_an_inside_takes_what_there_is(folder: Path) -> None:
    empty = np.zeros((0, 4), np.float32)
    write_samples(folder / "SdfSamples" / "set" / "lamps" / "a.npz", neg=empty)
    batch = load(f"deepsdf:{folder}", balanced=True).batch(torch.tensor([3]), 20, torch.Generator().manual_seed(0))
    assert batch.values.shape == (1, 20, 1)
    assert (batch.values >= 0).all()


def test_scores_look_at_a_part_of_very_many_samples_and_at_all_even_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("neuralfield.signals.shapes.MOST", 100)
    shapes = Shapes([ball(0.5, 300), ball(0.6, 100)], even=40)
    truth = shapes.truth(torch.arange(2))
    assert truth.weight.sum(1).tolist() == pytest.approx([300, 100])  # they stand for all
    assert (truth.weight > 0).sum(1).tolist() == [100, 100]
    assert torch.equal(truth.coords[:, :40], shapes.batch(torch.arange(2)).coords[:, :40])
    places = [(ball(0.5, 300)[40:, :3] == point).all(1).nonzero()[0].item() for point in truth.coords[0, 40:].numpy()]
    assert len(set(places)) == 60
    assert places == sorted(places)
    alone = shapes.truth(torch.arange(1))
    assert torch.equal(alone.coords[0], truth.coords[0])  # whoever else is in the batch


def test_normals_and_empty_points_keep_their_places_in_that_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("neuralfield.signals.shapes.MOST", 100)
    values, normals = ball(0.5, 300), np.random.default_rng(1).standard_normal((50, 3)).astype(np.float32)
    shapes = Shapes([Sampled(values, normals, empty=30)], even=40)
    truth, whole = shapes.truth(torch.tensor([0])), shapes.batch(torch.tensor([0]))
    place = [int((whole.coords[0] == point).all(1).nonzero()[0, 0]) for point in truth.coords[0]]
    assert place[:40] == list(range(40))
    for name in ("values", "normals", "relation"):
        assert torch.equal(getattr(truth, name), getattr(whole, name)[:, place]), name


def test_a_balanced_draw_looks_at_all_points_once(monkeypatch: pytest.MonkeyPatch) -> None:
    sorts, argsort = [], np.argsort
    monkeypatch.setattr(np, "argsort", lambda *given, **how: sorts.append(1) or argsort(*given, **how))
    part = Sampled(ball(0.5))
    for seed in range(3):
        shares = np.random.default_rng(seed).random(40)
        signs = part.rows(part.drawn(shares, True))[:, -1] < 0
        assert not signs[:20].any()
        assert signs[20:].all()
    assert len(sorts) == 1


@pytest.mark.parametrize("source", ["primitives"])
def test_other_shapes_can_be_drawn_so_too(source: str) -> None:
    shapes = load(source, count=2, balanced=True, even=200, surface=50, near=200)
    batch = shapes.batch(torch.arange(2), 100, torch.Generator().manual_seed(0))
    assert (batch.values < 0).sum().item() == 100


def bad(folder: Path, kind: str) -> list[object]:
    """Break the folder; words that the error must say."""
    file = folder / "SdfSamples" / "set" / "lamps" / "a.npz"
    some = ball(0.5)
    changes: dict[str, dict[str, Any]] = {
        "no neg": {"neg": None},
        "no pos": {"pos": None},
        "narrow": {"pos": some[:, :3]},
        "whole numbers": {"neg": some.astype(np.int64)},
        "all NaN": {"pos": some * np.nan, "neg": some[:0]},
    }
    words: dict[str, list[object]] = {
        "no neg": [file, '"neg"', "pos"],
        "no pos": [file, '"pos"'],
        "narrow": [file, '"pos"', "[n, 4]", "[300, 3]"],
        "whole numbers": [file, '"neg"', "int64"],
        "all NaN": [file, "no samples"],
        "truncated": [file, "cannot be read"],
        "missing": [folder / "SdfSamples" / "set" / "lamps" / "z.npz", "does not exist"],
        "frame": [file, "offset"],
    }
    if kind in changes:
        write_samples(file, **changes[kind])
    elif kind == "truncated":
        file.write_bytes(file.read_bytes()[:-100])
    elif kind == "missing":
        (folder / "train.json").write_text(json.dumps({"set": {"lamps": ["b", "z"]}}))
    elif kind == "frame":
        other = folder / "NormalizationParameters" / "set" / "lamps" / "a.npz"
        other.parent.mkdir(parents=True)
        np.savez(other, offset=np.zeros(3))
    return words[kind]


@pytest.mark.filterwarnings("always::neuralfield.errors.NeuralfieldWarning")  # as users have it
@pytest.mark.parametrize("kind", ["no neg", "no pos", "narrow", "whole numbers", "all NaN", "truncated", "missing", "frame"])
def test_a_bad_file_is_one_line_or_is_left_out(folder: Path, kind: str, nf_: Nf) -> None:
    words = bad(folder, kind)
    failed(nf_("data", f"deepsdf:{folder}"), 1, *words, "--skip-bad")
    answer = nf_("data", f"deepsdf:{folder}", "--skip-bad", "--json")
    warned(answer, "left out", words[0])
    assert answer.json["signals"] == (1 if kind == "missing" else 4)


def test_folders_and_splits_that_are_none_are_one_line(folder: Path, tmp_path: Path, nf_: Nf) -> None:
    failed(nf_("data", "deepsdf"), 2, "needs a path")
    failed(nf_("data", f"deepsdf:{tmp_path / 'nowhere'}"), 1, tmp_path / "nowhere", "SdfSamples")
    (tmp_path / "empty" / "SdfSamples").mkdir(parents=True)
    failed(nf_("data", f"deepsdf:{tmp_path / 'empty'}"), 1, "no samples", "DATASET/CLASS/ID.npz")
    failed(nf_("data", f"deepsdf:{folder}", "--set", "signals.splits=none.json"), 1, "none.json", folder)
    failed(nf_("data", f"deepsdf:{folder}", "--set", "signals.balanced=2"), 2, "balanced", "true or false")
    (folder / "train.json").write_text(json.dumps({"set": {"lamps": ["a"]}}))
    failed(nf_("data", f"deepsdf:{folder}", "--split", "test"), 1, "train.json", "no test.json", "signals.splits")
    (folder / "my_train.json").write_text("{}")
    failed(nf_("data", f"deepsdf:{folder}"), 1, "several", "my_train.json", "signals.splits")
    for content in ("{}", "[]", '{"set": {"lamps": [3]}}', '{"set": ["a"]}', "3"):
        (folder / "odd.json").write_text(content)
        failed(nf_("data", f"deepsdf:{folder}", "--set", "signals.splits=odd.json"), 1, "odd.json", "dataset")
    (folder / "odd.json").write_text("{")
    failed(nf_("data", f"deepsdf:{folder}", "--set", "signals.splits=odd.json"), 1, "odd.json")
    (folder / "odd.json").write_text('{"set": {"lamps": ["a", "a"]}}')
    failed(nf_("data", f"deepsdf:{folder}", "--set", "signals.splits=odd.json"), 1, "named twice")


def test_the_recipe_fits_a_folder_and_the_run_searches_its_other_split(folder: Path, tmp_path: Path, nf_: Nf) -> None:
    (folder / "train.json").write_text(json.dumps({"set": {"lamps": ["b", "a"], "chairs": ["e"]}}))
    (folder / "test.json").write_text(json.dumps({"set": {"chairs": ["d"]}}))
    settings = [word for setting in SMALL for word in ("--set", setting)]
    answer = nf_("fit", "--recipe", "deepsdf", "--data", f"deepsdf:{folder}", "--out", tmp_path / "run", *settings, "--json")
    assert answer.code == 0, answer.err
    assert answer.json["signals"] == 3
    assert nf.Run.load(tmp_path / "run").recipe.signals.arguments["balanced"] is True  # type: ignore[union-attr]
    found = nf_("eval", tmp_path / "run", "--json")
    assert found.code == 0, found.err
    assert found.json["signals"] == 1


# its experiments


@pytest.mark.parametrize("form", ["embedding", "list", "matrix"])
@pytest.mark.parametrize("prefix", ["module.", ""])
def test_an_imported_run_has_the_values_of_the_network(
    codes: Tensor, coords: Tensor, tmp_path: Path, form: str, prefix: str
) -> None:
    plain = Plain().eval()
    run = read_experiment(experiment(tmp_path / "chairs", plain, codes, form, prefix))
    assert torch.equal(run.codes, codes)
    assert run.ids == ["0", "1", "2", "3", "4", "5"]
    assert run.facts["epochs"] == 7
    with torch.no_grad():
        torch.testing.assert_close(run.field(run.codes)(coords), plain.at(codes, coords), rtol=0, atol=1e-6)
    run.save(tmp_path / "run")
    again = nf.Run.load(tmp_path / "run")
    with torch.no_grad():
        assert torch.equal(again.field(again.codes)(coords), run.field(run.codes)(coords))


@pytest.mark.parametrize("normed", [(), (0, 2), (0, 1, 2, 3, 4)])
def test_weight_norm_of_any_layers_is_understood(codes: Tensor, coords: Tensor, tmp_path: Path, normed: tuple[int, ...]) -> None:
    plain = Plain(normed=normed).eval()
    run = read_experiment(experiment(tmp_path / "e", plain, codes, norm_layers=list(normed), weight_norm=bool(normed)))
    with torch.no_grad():
        torch.testing.assert_close(run.field(run.codes)(coords), plain.at(codes, coords), rtol=0, atol=1e-6)


def test_dropout_of_some_layers_is_left_out_with_a_warning(codes: Tensor, tmp_path: Path) -> None:
    with pytest.warns(NeuralfieldWarning, match="dropout"):
        run = read_experiment(experiment(tmp_path / "e", Plain(), codes, dropout=[0, 1]))
    assert run.recipe.decoder.arguments["dropout"] == 0


def test_names_and_frames_come_from_the_split_and_the_data_where_they_are_found(
    codes: Tensor, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits" / "train.json").write_text(json.dumps({"set": {"lamps": ["b", "a", "gone"], "chairs": ["e", "c", "d"]}}))
    file = folder / "NormalizationParameters" / "set" / "lamps" / "a.npz"
    file.parent.mkdir(parents=True)
    np.savez(file, offset=np.ones(3), scale=0.5)
    named = {"TrainSplit": "splits/train.json", "DataSource": "data"}
    run = read_experiment(experiment(tmp_path / "examples" / "e", Plain(), codes, **named))
    assert run.ids == ["b", "a", "gone", "e", "c", "d"]
    assert run.labels is not None
    assert run.labels.tolist() == [1, 1, 1, 0, 0, 0]
    assert run.roster.frames is not None
    assert run.roster.frames[1].tolist() == [-1, -1, -1, 2]
    with pytest.warns(NeuralfieldWarning, match="6 shapes, but there are 5 codes"):
        assert read_experiment(experiment(tmp_path / "examples" / "f", Plain(), codes[:5], **named)).ids[0] == "0"


def test_an_export_that_is_imported_is_the_same_run(uninterrupted: nf.Run, tmp_path: Path, coords: Tensor) -> None:
    write_experiment(uninterrupted, tmp_path / "e")
    again = read_experiment(tmp_path / "e")
    assert again.ids == uninterrupted.ids
    with torch.no_grad():
        ours, theirs = (run.field(run.codes)(coords[:5]) for run in (again, uninterrupted))
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    for key in ("width", "depth", "skip", "weight_norm", "dropout", "bounded"):
        assert again.recipe.decoder.arguments[key] == uninterrupted.recipe.decoder.arguments[key]


def test_what_is_exported_has_deepsdfs_layout(uninterrupted: nf.Run, tmp_path: Path, coords: Tensor) -> None:
    write_experiment(uninterrupted, tmp_path / "e")
    held = torch.load(tmp_path / "e" / "ModelParameters" / "latest.pth", weights_only=True)
    plain = Plain().eval()
    assert held["model_state_dict"].keys() == plain.state().keys()
    with torch.no_grad():
        for key, value in held["model_state_dict"].items():
            layer, name = key.removeprefix("module.lin").split(".")
            letter = {"bias": "b", "weight": "v", "weight_v": "v", "weight_g": "g"}[name]
            getattr(plain, letter + layer).copy_(value)
    codes = torch.load(tmp_path / "e" / "LatentCodes" / "latest.pth", weights_only=True)["latent_codes"]["weight"]
    with torch.no_grad():
        expected = uninterrupted.field(uninterrupted.codes)(coords[:5])
        torch.testing.assert_close(plain.at(codes, coords[:5]), expected, rtol=0, atol=1e-6)
    described = json.loads((tmp_path / "e" / "specs.json").read_text())
    ours = specs()["NetworkSpecs"]
    assert described["NetworkSpecs"] == ours
    assert described["CodeLength"] == CODE
    steps = [{"Type": "Step", "Initial": rate, "Interval": 2, "Factor": 0.5} for rate in (5e-4, 1e-3)]
    assert described["LearningRateSchedule"] == steps


def test_the_verbs_import_search_decode_and_export(codes: Tensor, folder: Path, tmp_path: Path, nf_: Nf) -> None:
    experiment(tmp_path / "e", Plain(), codes)
    answer = nf_("import", "deepsdf", tmp_path / "e", "--out", tmp_path / "run", "--json")
    assert answer.code == 0, answer.err
    assert answer.json == {"run": str(tmp_path / "run"), "signals": 6, "code_dim": CODE, "epochs": 7}
    failed(nf_("import", "deepsdf", tmp_path / "e", "--out", tmp_path / "run"), 1, "exists", "--overwrite")
    assert nf_("import", "deepsdf", tmp_path / "e", "--out", tmp_path / "run", "--overwrite").code == 0
    decoded = nf_("decode", tmp_path / "run", "--resolution", 8, "--out", tmp_path / "grid.npy")
    assert decoded.code == 0, decoded.err
    found = nf_("infer", tmp_path / "run", "--data", f"deepsdf:{folder}", "--limit", 2, "--json")
    assert found.code == 0, found.err
    assert found.json["signals"] == 2
    failed(nf_("infer", tmp_path / "run"), 2, "--data SOURCE")
    exported = nf_("export", tmp_path / "run", "--format", "deepsdf", "--out", tmp_path / "again", "--json")
    assert exported.code == 0, exported.err
    failed(nf_("export", tmp_path / "run", "--format", "deepsdf", "--out", tmp_path / "again"), 1, "holds an experiment")
    failed(nf_("import", "deepsdf", tmp_path / "e", "--out", tmp_path / "b", "--checkpoint", "500"), 1, "500.pth", "latest")
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"use_tanh": True}, ["use_tanh", "True"]),
        ({"xyz_in_all": True}, ["xyz_in_all"]),
        ({"latent_dropout": True}, ["latent_dropout"]),
        ({"geometric": 3}, ["geometric"]),
        ({"dims": [24, 24, 12, 24]}, ["dims", "one width"]),
        ({"dims": []}, ["dims"]),
        ({"dims": "512"}, ["dims", "whole numbers"]),
        ({"latent_in": [1, 3]}, ["latent_in", "[1, 3]"]),
        ({"latent_in": [4]}, ["specs.json", "skip"]),
        ({"weight_norm": False}, ["LayerNorm"]),
        ({"NetworkArch": "deep_implicit_template_decoder"}, ["NetworkArch", "deep_implicit_template_decoder"]),
        ({"CodeLength": 7}, ["[n, 7]", "[6, 5]"]),
        ({"CodeLength": None}, ["CodeLength"]),
        ({"CodeInitStdDev": None}, ["specs.json", "CodeInitStdDev", "None"]),
        ({"CodeInitStdDev": "much"}, ["specs.json", "CodeInitStdDev", "'much'"]),
        ({"CodeBound": "wide"}, ["specs.json", "bound"]),
        ({"ClampingDistance": "near"}, ["specs.json", "clamp"]),
        ({"dropout_prob": "some"}, ["specs.json", "dropout_prob", "'some'"]),
        ({"dims": [24] * 5, "dropout": [], "norm_layers": list(range(5))}, ["latest.pth", "lin5"]),
        ({"dims": [26] * 4}, ["latest.pth", "layers.0"]),
        ({"dims": [24] * 3, "latent_in": [2]}, ["latest.pth", "lin4"]),
    ],
)
def test_an_experiment_that_is_not_ours_is_refused_by_name(
    codes: Tensor, tmp_path: Path, changes: dict[str, Any], words: list[str]
) -> None:
    folder = experiment(tmp_path / "e", Plain(), codes, **changes)
    with pytest.raises(NeuralfieldError) as caught:
        read_experiment(folder)
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ([1, 2], ["model_state_dict", "list"]),
        ({3: torch.zeros(2)}, ["model_state_dict"]),
        ({"module.lin0.bias": 7}, ["module.lin0.bias", "vector", "int"]),
        ({"module.lin0.weight_v": torch.zeros(WIDTH)}, ["module.lin0.weight_v", "matrix", f"[{WIDTH}]"]),
        ({"module.lin0.weight_g": torch.zeros(WIDTH, 2)}, ["module.lin0.weight_g", "[n, 1]"]),
        ({"module.lin0.weight_g": torch.zeros(2, 1)}, ["lin0.weight_g"]),
    ],
)
@pytest.mark.parametrize("normed", [tuple(range(DEPTH)), (0,)])
def test_a_checkpoint_that_holds_no_network_is_one_line(
    codes: Tensor, tmp_path: Path, state: Any, words: list[str], normed: tuple[int, ...]
) -> None:
    folder = experiment(tmp_path / "e", Plain(normed=normed), codes, norm_layers=list(normed))
    file = folder / "ModelParameters" / "latest.pth"
    held = {"epoch": 7, "model_state_dict": Plain(normed=normed).state() | state if isinstance(state, dict) else state}
    torch.save(held, file)
    with pytest.raises(NeuralfieldError, match=r"latest\.pth") as caught:
        read_experiment(folder)
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in words), str(caught.value)


class Trap:
    """Runs when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.file,))


def test_files_that_are_damaged_or_would_run_code_are_refused(codes: Tensor, tmp_path: Path) -> None:
    for name, content in {
        "trap": pickle.dumps({"epoch": 1, "latent_codes": Trap(tmp_path / "sprung")}),
        "empty": b"",
        "text": b"no checkpoint",
    }.items():
        folder = experiment(tmp_path / name, Plain(), codes)
        (folder / "LatentCodes" / "latest.pth").write_bytes(content)
        with pytest.raises(NeuralfieldError, match=r"latest\.pth"):
            read_experiment(folder)
    torch.save({"epoch": 1, "latent_codes": Trap(tmp_path / "sprung")}, folder / "LatentCodes" / "latest.pth")
    with pytest.raises(NeuralfieldError, match="might run code"):
        read_experiment(folder)
    assert not (tmp_path / "sprung").exists()
    for held in ({"epoch": 1}, {"latent_codes": {}}, {"latent_codes": torch.full((6, CODE), torch.nan)}, torch.zeros(3)):
        torch.save(held, folder / "LatentCodes" / "latest.pth")
        with pytest.raises(NeuralfieldError, match=r"latest\.pth"):
            read_experiment(folder)
    with pytest.raises(NeuralfieldError, match=r"no experiment of DeepSDF: it has no specs\.json"):
        read_experiment(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["decoder.kind=modulated", "decoder.width=8", "decoder.depth=2"], ['"concat"', '"modulated"']),
        (["decoder.bounded=false"], ["decoder.bounded = True", "False"]),
        (["decoder.activation=silu"], ["decoder.activation = relu", "silu"]),
        (["decoder.frequencies=2"], ["decoder.frequencies = 0", "2"]),
    ],
)
def test_a_run_that_is_no_such_network_is_refused_by_name(tmp_path: Path, settings: list[str], words: list[str]) -> None:
    run = nf.fit(balls(), recipe="deepsdf", settings=[*SMALL, *settings, "training.epochs=1"])
    with pytest.raises(NeuralfieldError) as caught:
        write_experiment(run, tmp_path / "e")
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert not (tmp_path / "e").exists()


def test_pictures_have_no_such_network(run: nf.Run, tmp_path: Path) -> None:
    with pytest.raises(NeuralfieldError, match="three dimensions"):
        write_experiment(run, tmp_path / "e")


def test_a_recipe_of_a_kind_of_ramp_that_is_none_is_refused() -> None:
    for setting in ("training.ramp=-1", "training.halve_every=0", "training.latent_optimiser=adagrad", "training.decay=halve"):
        with pytest.raises(UsageError, match=setting.split("=")[0].split(".")[1]):
            Recipe.load("deepsdf", [setting])
