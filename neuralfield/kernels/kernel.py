"""The per-point hot loop: an MLP that all signals share, conditioned for each, evaluated at points. The interface."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from neuralfield.errors import NeuralfieldError
from neuralfield.registry import resolve

NARROW = 8
"""Inputs of at most so many numbers are coordinates: they and their first layer stay in full precision, as w0 multiplies errors."""


@dataclass(frozen=True)
class Network:
    """h_0 = x,  h_l = activation(scale_l (W_l h_(l-1) + U_l x) + shift_l),  values = W h_L + c.

    Conditioning is one row for each signal [B, 1, M], one for all signals [1, 1, M], or one for each point [B, N, M].
    """

    weights: tuple[Float[Tensor, "_ _"], ...]
    """W_l [M_l, M_(l-1)]; the first is [M_1, F]."""
    entering: tuple[Float[Tensor, "_ F"] | None, ...]
    """U_l [M_l, F], where the inputs enter a layer again."""
    scales: tuple[Float[Tensor, "_ _ _"] | float, ...]
    """As the shifts, or one number for a whole layer."""
    shifts: tuple[Float[Tensor, "_ _ _"], ...]
    """With the layers' biases in them."""
    out_weight: Float[Tensor, "V _"]
    out_bias: Float[Tensor, " V"]
    activation: str
    """relu, leaky-relu, silu or sine."""
    dropout: float = 0.0
    """Share of the numbers that is left out after each layer."""

    def __post_init__(self) -> None:
        # a gain of 30 is no float, and would be taken for none
        object.__setattr__(self, "scales", tuple(s if isinstance(s, Tensor) else float(s) for s in self.scales))

    @property
    def conditioning(self) -> list[Tensor]:
        """Shifts, and those scales that are tensors."""
        return [*self.shifts, *(scale for scale in self.scales if isinstance(scale, Tensor))]

    @property
    def per_point(self) -> bool:
        """Whether points have a conditioning of their own."""
        return any(tensor.shape[1] > 1 for tensor in self.conditioning)

    def signals(self, inputs: Float[Tensor, "G N F"]) -> int:
        """B: how many signals the conditioning or the inputs are of."""
        counts = {len(inputs), *(len(tensor) for tensor in self.conditioning)}
        return max(counts) if 0 not in counts else 0

    def flat(self, inputs: Float[Tensor, "G N F"]) -> list[Tensor | float | None]:
        """Inputs and all that the network is made of, in a row, as autograd takes arguments."""
        return [inputs, self.out_weight, self.out_bias, *self.weights, *self.entering, *self.shifts, *self.scales]

    def like(self, flat: Sequence[Any]) -> tuple["Network", Tensor]:
        """(a network of the same form, inputs) from such a row."""
        inputs, out_weight, out_bias, *layers = flat
        depth = len(self.weights)
        weights, entering, shifts, scales = (tuple(layers[i * depth : (i + 1) * depth]) for i in range(4))
        return Network(weights, entering, scales, shifts, out_weight, out_bias, self.activation, self.dropout), inputs


class Kernel(ABC):
    """One way to evaluate a network, with gradients to weights, conditioning and inputs. All ways agree (tests/contracts)."""

    name: str
    differentiable_twice: ClassVar[bool] = False
    """Whether gradients of gradients exist."""

    @classmethod
    def missing(cls) -> str | None:
        """Why it does not work on this machine; None where it does."""
        return None

    @abstractmethod
    def refusal(self, network: Network, inputs: Float[Tensor, "G N F"]) -> str | None:
        """Why it cannot do this; None where it can."""

    @abstractmethod
    def values(self, network: Network, inputs: Float[Tensor, "G N F"]) -> Float[Tensor, "B N V"]:
        """Of a network and inputs that it does not refuse."""

    def __call__(self, network: Network, inputs: Float[Tensor, "G N F"]) -> Float[Tensor, "B N V"]:
        """Values at points with inputs `inputs`, where G is B, or 1 where all signals share them."""
        if (reason := self.missing() or self.refusal(network, inputs)) is not None:
            able = next(Auto().takers(network, inputs)).name
            raise NeuralfieldError(f'kernel "{self.name}" {reason}; "{able}" can: --set decoder.kernel={able}, or auto')
        return self.values(network, inputs)


SMALL = 2**18
"""Numbers of a layer, of all points, below which a processor has the reference's values before another kernel has begun."""
PREFERRED = ("triton", "cpu", "reference")
"""What `auto` tries, in this order. (tinycudann takes plain networks alone, in half precision: it must be asked for.)"""


class Auto(Kernel):
    """The first of PREFERRED that works here and does not refuse; `reference` takes everything."""

    name = "auto"
    differentiable_twice = True

    def __init__(self) -> None:
        self.able = [kernel() for name in PREFERRED if (kernel := resolve("kernels", name)).missing() is None]

    def refusal(self, network: Network, inputs: Float[Tensor, "G N F"]) -> str | None:
        return None

    def values(self, network: Network, inputs: Float[Tensor, "G N F"]) -> Float[Tensor, "B N V"]:
        chosen, flat = self.choice(network, inputs), network.flat(inputs)
        if chosen.differentiable_twice or not torch.is_grad_enabled() or not any(_wants_gradient(each) for each in flat):
            return chosen.values(network, inputs)
        return _Twinned.apply(chosen, self.able[-1], network, *flat)

    def choice(self, network: Network, inputs: Float[Tensor, "G N F"]) -> Kernel:
        """Gradients by the inputs are mostly differentiated again (slopes of fields); small things are done at once."""
        numbers = network.signals(inputs) * inputs.shape[1] * max(len(weight) for weight in network.weights)
        small = inputs.device.type == "cpu" and numbers < SMALL
        if small or (_wants_gradient(inputs) and torch.is_grad_enabled()):
            return self.able[-1]
        return next(self.takers(network, inputs))

    def takers(self, network: Network, inputs: Float[Tensor, "G N F"]) -> Iterator[Kernel]:
        """Those that can do it, in the order of PREFERRED."""
        return (kernel for kernel in self.able if kernel.refusal(network, inputs) is None)


def _wants_gradient(each: Tensor | float | None) -> bool:
    return isinstance(each, Tensor) and each.requires_grad


class _Twinned(torch.autograd.Function):
    """Gradients by a kernel; where these are to be differentiated again, or in another way, by its twin, which starts anew."""

    @staticmethod
    def forward(ctx: Any, kernel: Kernel, twin: Kernel, network: Network, *flat: Tensor | float | None) -> Tensor:
        own = [each.detach().requires_grad_(each.requires_grad) if isinstance(each, Tensor) else each for each in flat]
        with torch.enable_grad():
            values = kernel.values(*network.like(own))
        ctx.values, ctx.own, ctx.twin, ctx.network = values, own, twin, network
        ctx.save_for_backward(*(each if isinstance(each, Tensor) else None for each in flat))
        return values.detach()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        again = torch.is_grad_enabled()
        batched: bool = torch._C._functorch.is_legacy_batchedtensor(gradient)  # type: ignore[attr-defined]
        if again or batched or differentiated_otherwise():
            own = [given if given is not None else known for given, known in zip(ctx.saved_tensors, ctx.own, strict=True)]
            with torch.enable_grad():
                values = ctx.twin.values(*ctx.network.like(own))
        else:
            values, own = ctx.values, ctx.own
        wanted = [each if needed else None for each, needed in zip(own, ctx.needs_input_grad[3:], strict=True)]
        leaves = [each for each in wanted if each is not None]
        found = iter(torch.autograd.grad(values, leaves, gradient, retain_graph=True, create_graph=again, allow_unused=True))
        return None, None, None, *(None if each is None else next(found) for each in wanted)


def differentiated_otherwise() -> bool:
    """Whether torch.func or forward-mode differentiation is at work: those see through torch's own operations alone."""
    forward: int = torch.autograd.forward_ad._current_level
    return torch._C._functorch.maybe_current_level() is not None or forward >= 0  # type: ignore[attr-defined]


def differentiable_once(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """For a Function's `backward` that autograd cannot see through: gradients of its gradients are an error, and say so.

    torch's own `once_differentiable` takes them for constants where the incoming gradient is one.
    """

    def marked(backward: Callable[..., Any]) -> Callable[..., Any]:
        def found(ctx: Any, *gradients: Tensor) -> Any:
            with torch.no_grad():
                answer = backward(ctx, *gradients)
            return _Ended.apply(name, answer, *gradients, *ctx.saved_tensors) if torch.is_grad_enabled() else answer

        return found

    return marked


class _Ended(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, name: str, answer: tuple[Tensor | None, ...], *depends_on: Tensor | None) -> tuple[Tensor | None, ...]:
        ctx.name = name
        return answer

    @staticmethod
    def backward(ctx: Any, *_: Tensor | None) -> Any:
        raise NeuralfieldError(f'kernel "{ctx.name}" has no second derivatives; "reference" has: --set decoder.kernel=reference')
