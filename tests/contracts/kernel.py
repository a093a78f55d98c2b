"""Laws of every kernel: it agrees with the network written out in float64, forward and backward."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from neuralfield.errors import NeuralfieldError
from neuralfield.kernels.kernel import Kernel, Network
from neuralfield.kernels.reference import SLOPE


@dataclass(frozen=True)
class Case:
    """A network and points, drawn from `seed`. `conditioning` is of what every layer has in turn."""

    signals: int
    points: int
    features: int
    values: int
    widths: tuple[int, ...]
    activation: str
    scaled: bool = False
    again: tuple[int, ...] = ()
    conditioning: tuple[str, ...] = ("own",)
    """own: a row for each signal; shared: one for all; point: one for each point of each signal."""
    shared_points: bool = True
    seed: int = 0

    def __str__(self) -> str:
        given = [self.activation, "scaled" * self.scaled, f"again{self.again}" * bool(self.again), *self.conditioning]
        sizes = f"{self.signals}x{self.points} {self.features}-{'-'.join(map(str, self.widths))}-{self.values}"
        return " ".join([sizes, *filter(None, given), "" if self.shared_points else "points of its own"]).strip()

    def make(self, dtype: torch.dtype, device: str = "cpu") -> "Call":
        generator = torch.Generator().manual_seed(self.seed)

        def normal(std: float, *shape: int) -> Tensor:
            return (std * torch.randn(shape, generator=generator, dtype=torch.float64)).to(device, dtype).requires_grad_()

        def row(layer: int, width: int) -> Tensor:
            kind = self.conditioning[layer % len(self.conditioning)]
            return normal(0.5, 1 if kind == "shared" else self.signals, self.points if kind == "point" else 1, width)

        # w0 = 30 as SIRENs have it where sines begin with coordinates; all other gains keep numbers near 1
        first = 30.0 if self.activation == "sine" and self.features <= 3 else 1.0
        weights = [normal(1 / i**0.5, o, i) for o, i in zip(self.widths, (self.features, *self.widths), strict=False)]
        network = Network(
            tuple(weights),
            tuple(normal(0.5, o, self.features) if layer in self.again else None for layer, o in enumerate(self.widths)),
            tuple(row(layer, o) if self.scaled else (first if layer == 0 else 1.0) for layer, o in enumerate(self.widths)),
            tuple(row(layer, o) for layer, o in enumerate(self.widths)),
            normal(1 / self.widths[-1] ** 0.5, self.values, self.widths[-1]),
            normal(0.5, self.values),
            self.activation,
        )
        inputs = normal(0.5, 1 if self.shared_points else self.signals, self.points, self.features)
        pull = torch.randn(network.signals(inputs), self.points, self.values, generator=generator, dtype=torch.float64)
        return Call(network, inputs, pull.to(device))


@dataclass(frozen=True)
class Call:
    network: Network
    inputs: Tensor
    pull: Tensor
    """[B, N, V], by which values are multiplied before their sum is differentiated."""

    @property
    def tensors(self) -> dict[str, Tensor]:
        network = self.network
        lists = {name: getattr(network, name) for name in ("weights", "entering", "shifts", "scales")}
        found = {f"{name}[{i}]": t for name, many in lists.items() for i, t in enumerate(many) if isinstance(t, Tensor)}
        return {"inputs": self.inputs, "out_weight": network.out_weight, "out_bias": network.out_bias, **found}

    def gradients(self, values: Tensor, **options: Any) -> dict[str, Tensor]:
        """By all tensors that want one."""
        wanted = {name: tensor for name, tensor in self.tensors.items() if tensor.requires_grad}
        found = torch.autograd.grad(values, list(wanted.values()), self.pull.to(values.dtype), **options)
        return dict(zip(wanted, found, strict=True))


def written_out(network: Network, x: Tensor) -> Tensor:
    """The interface's formula, in einsums of its own."""
    activation: Callable[[Tensor], Tensor] = {
        "sine": torch.sin,
        "silu": lambda t: t / (1 + torch.exp(-t)),
        "relu": lambda t: t.clamp(min=0),
        "leaky-relu": lambda t: torch.where(t > 0, t, SLOPE * t),
    }[network.activation]
    h = x
    for weight, again, scale, shift in zip(network.weights, network.entering, network.scales, network.shifts, strict=True):
        product = torch.einsum("gnk,mk->gnm", h, weight)
        if again is not None:
            product = product + torch.einsum("gnf,mf->gnm", x, again)
        h = activation(scale * product + shift)
    signals = network.signals(x)
    return (torch.einsum("gnm,vm->gnv", h, network.out_weight) + network.out_bias).expand(signals, -1, -1)


def agree(found: dict[str, Tensor], expected: dict[str, Tensor], share: float) -> None:
    """Assert that each is as expected, up to a share of its largest number."""
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        whole = expected[name].double()
        assert tensor.shape == whole.shape, name
        if whole.numel():
            off, largest = (tensor.double() - whole).abs().max(), whole.abs().max()
            assert off <= share * largest.clamp(min=1e-3), f"{name}: off by {off:.1e} of {largest:.1e}"


def error(found: Tensor, expected: Tensor) -> float:
    """The largest, as a share of the largest number."""
    return ((found.cpu().double() - expected).abs().max() / expected.abs().max()).item()


CASES = [
    Case(2, 17, 2, 1, (16, 16), "sine"),
    Case(3, 66, 3, 2, (20, 33), "silu", scaled=True),
    Case(2, 65, 5, 3, (32, 17, 30), "relu", again=(1,), shared_points=False),
    Case(2, 33, 70, 1, (24, 40), "leaky-relu", scaled=True, again=(1,), conditioning=("own", "shared")),
    Case(2, 1, 8, 1, (100, 70, 16, 96), "silu", conditioning=("shared", "own"), shared_points=False),
    Case(1, 130, 3, 1, (31,), "sine"),
    Case(1, 64, 4, 1, (64, 64), "silu"),
    Case(3, 5, 40, 2, (8,), "relu", conditioning=("shared",), shared_points=False),
    Case(2, 9, 2, 1, (130, 140), "sine", scaled=True, conditioning=("shared", "own")),
    Case(1, 20, 9, 3, (16, 16, 16, 16, 16), "leaky-relu", conditioning=("shared",)),
    Case(2, 7, 2, 1, (12, 13), "silu", scaled=True, conditioning=("point", "own")),
    Case(2, 6, 20, 1, (16, 16), "sine", conditioning=("own", "point"), shared_points=False),
]
SMALL = [CASES[1], CASES[2], CASES[3]]


class KernelContract:
    """Give `make`. `device` is where its tensors are, `dtypes` what it computes in; `refuses` says which cases it may refuse."""

    device = "cpu"
    dtypes: tuple[torch.dtype, ...] = (torch.float32,)

    def make(self) -> Kernel:
        raise NotImplementedError

    def refuses(self, case: Case) -> bool:
        return False

    def called(self, case: Case, dtype: torch.dtype | None = None) -> tuple[Kernel, Call]:
        """A case that the kernel takes."""
        kernel, call = self.make(), case.make(dtype or self.dtypes[0], self.device)
        reason = kernel.refusal(call.network, call.inputs)
        assert (reason is not None) == self.refuses(case), reason
        if reason is not None:
            with pytest.raises(NeuralfieldError, match=r"can: --set decoder\.kernel="):
                kernel(call.network, call.inputs)
            pytest.skip(f"it says that it {reason}")
        return kernel, call

    @pytest.mark.parametrize("case", CASES, ids=str)
    def test_values_and_gradients_are_those_of_the_formula(self, case: Case) -> None:
        for dtype in self.dtypes:
            kernel, call = self.called(case, dtype)
            exact = case.make(torch.float64)
            values, truth = kernel(call.network, call.inputs), written_out(exact.network, exact.inputs)
            # sums of some hundred products, each rounded to half a unit of 6e-8 or 1e-16, behind a w0 of 30
            share = 1e-5 if dtype == torch.float32 else 1e-12
            found = {name: tensor.cpu() for name, tensor in {"values": values, **call.gradients(values)}.items()}
            agree(found, {"values": truth, **exact.gradients(truth)}, share)
            assert values.dtype == dtype

    @pytest.mark.parametrize("case", SMALL, ids=str)
    def test_some_gradients_are_the_same_whatever_others_are_wanted(self, case: Case) -> None:
        kernel, call = self.called(case)
        whole = call.gradients(kernel(call.network, call.inputs))
        for wanted in sorted({name.split("[")[0] for name in whole}):
            for name, tensor in call.tensors.items():
                tensor.requires_grad_(name.startswith(wanted))
            part = {name: gradient for name, gradient in whole.items() if name.startswith(wanted)}
            agree(call.gradients(kernel(call.network, call.inputs)), part, 1e-6)  # sums may run in another order

    def test_values_are_the_same_where_no_gradient_is_wanted(self) -> None:
        kernel, call = self.called(CASES[1])
        with torch.no_grad():
            alone = kernel(call.network, call.inputs)
        assert not alone.requires_grad
        agree({"values": alone}, {"values": kernel(call.network, call.inputs)}, 1e-6)  # as above

    def test_a_graph_that_is_kept_gives_the_same_again(self) -> None:
        kernel, call = self.called(CASES[2])
        values = kernel(call.network, call.inputs)
        first = call.gradients(values, retain_graph=True)
        for name, gradient in call.gradients(values).items():
            assert torch.equal(gradient, first[name]), name

    def test_incoming_gradients_may_have_any_strides(self) -> None:
        kernel, call = self.called(CASES[1])
        expanded = torch.randn(3, 1, 1, generator=torch.Generator().manual_seed(1)).to(call.pull).expand(call.pull.shape)
        turned = call.pull.mT.contiguous().mT
        for pull in (expanded, turned):
            assert not pull.is_contiguous()
            there = replace(call, pull=pull).gradients(kernel(call.network, call.inputs))
            here = replace(call, pull=pull.contiguous()).gradients(kernel(call.network, call.inputs))
            agree(there, here, 1e-6)  # sums may run in another order

    def test_inputs_and_weights_may_have_any_strides(self) -> None:
        kernel, call = self.called(CASES[1])
        network = replace(call.network, weights=tuple(w.T.contiguous().T for w in call.network.weights))
        across = call.inputs.mT.contiguous().mT
        values = kernel(call.network, call.inputs)
        agree({"values": kernel(network, across)}, {"values": values}, 1e-6)  # sums may run in another order

    def test_all_memory_is_written_before_it_is_read(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for case in SMALL:
            kernel, call = self.called(case)
            plain = {"values": kernel(call.network, call.inputs)}
            plain |= call.gradients(plain["values"])
            with monkeypatch.context() as patch:
                patch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
                torch.use_deterministic_algorithms(True, warn_only=True)
                try:
                    assert torch.empty(1).isnan()
                    filled = {"values": kernel(call.network, call.inputs)}
                    filled |= call.gradients(filled["values"])
                finally:
                    torch.use_deterministic_algorithms(False)
            agree(filled, plain, 1e-6)  # algorithms that torch calls deterministic may sum in another order

    def test_a_signal_has_the_same_values_alone_and_its_gradients_are_its_own(self) -> None:
        kernel, call = self.called(CASES[1])
        second = {"shifts": call.network.shifts, "scales": call.network.scales}
        alone = replace(call.network, **{name: tuple(t[1:2] for t in many) for name, many in second.items()})
        values = kernel(call.network, call.inputs)
        agree({"values": values[1:2]}, {"values": kernel(alone, call.inputs)}, 1e-6)  # sums may run in another order
        (by_shift,) = torch.autograd.grad(values[1].sum(), call.network.shifts[0])
        assert by_shift[[0, 2]].eq(0).all()
        assert by_shift[1].ne(0).any()

    def test_shared_points_are_as_good_as_the_same_points_for_each(self) -> None:
        kernel, call = self.called(CASES[0])
        each = replace(call, inputs=call.inputs.detach().repeat(2, 1, 1).requires_grad_())
        shared, own = kernel(call.network, call.inputs), kernel(each.network, each.inputs)
        first, second = call.gradients(shared), each.gradients(own)
        second["inputs"] = second["inputs"].sum(0, keepdim=True)
        agree({"values": shared, **first}, {"values": own, **second}, 1e-5)  # float32 sums in another order

    def test_no_points_have_no_values_and_gradients_of_0(self) -> None:
        kernel, call = self.called(replace(CASES[0], points=0))
        values = kernel(call.network, call.inputs)
        assert values.shape == (2, 0, 1)
        assert all(gradient.eq(0).all() for gradient in call.gradients(values).values())

    def test_second_derivatives_are_right_or_refused_by_name(self) -> None:
        kernel, call = self.called(replace(CASES[0], points=4))
        exact = replace(CASES[0], points=4).make(torch.float64)

        def slopes(values: Tensor, inputs: Tensor) -> Tensor:
            slope = torch.autograd.grad(values.sum(), inputs, create_graph=True)[0]  # of a sum: the incoming gradient is constant
            return torch.autograd.grad(slope.square().sum(), inputs)[0]

        truth = slopes(written_out(exact.network, exact.inputs), exact.inputs)
        try:
            found = slopes(kernel(call.network, call.inputs), call.inputs)
        except NeuralfieldError as error:
            assert '"reference"' in str(error)  # noqa: PT017  (or the gradients are right: both keep the law)
        else:
            agree({"inputs": found.cpu()}, {"inputs": truth}, 1e-4)  # w0^3 times the rounding of float32 arguments

    def test_torch_func_is_right_or_refused_by_name(self) -> None:
        kernel, call = self.called(replace(CASES[0], points=4))
        exact = replace(CASES[0], points=4).make(torch.float64)

        def along(evaluate: Callable[[Network, Tensor], Tensor], at: Call) -> Tensor:
            def moved(inputs: Tensor) -> Tensor:
                return evaluate(at.network, inputs)

            return torch.func.jvp(moved, (at.inputs.detach(),), (torch.ones_like(at.inputs),))[1]

        try:
            found = along(kernel, call)
        except NeuralfieldError as error:
            assert "torch.func" in str(error)  # noqa: PT017
        else:
            agree({"slope": found.cpu()}, {"slope": along(written_out, exact)}, 1e-5)  # as for gradients
