"""The per-point hot loop: an MLP that all signals share, conditioned for each, evaluated at points. The interface."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

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
        return max(len(inputs), *(len(tensor) for tensor in self.conditioning))


class Kernel(ABC):
    """One way to evaluate a network, with gradients to weights, conditioning and inputs. All ways agree (tests/contracts)."""

    name: str

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
            able = Auto().choice(network, inputs).name
            raise NeuralfieldError(f'kernel "{self.name}" {reason}; "{able}" can: --set decoder.kernel={able}, or auto')
        return self.values(network, inputs)


PREFERRED = ("triton", "cpu", "reference")
"""What `auto` tries, in this order. (tinycudann takes plain networks alone, in half precision: it must be asked for.)"""


class Auto(Kernel):
    """The first of PREFERRED that works here and does not refuse; `reference` takes everything."""

    name = "auto"

    def __init__(self) -> None:
        self.able = [kernel() for name in PREFERRED if (kernel := resolve("kernels", name)).missing() is None]

    def refusal(self, network: Network, inputs: Float[Tensor, "G N F"]) -> str | None:
        return None

    def values(self, network: Network, inputs: Float[Tensor, "G N F"]) -> Float[Tensor, "B N V"]:
        return self.choice(network, inputs).values(network, inputs)

    def choice(self, network: Network, inputs: Float[Tensor, "G N F"]) -> Kernel:
        """Gradients by the inputs may be differentiated again (slopes of fields), which fused kernels cannot."""
        twice = inputs.requires_grad and torch.is_grad_enabled()
        return self.able[-1] if twice else next(kernel for kernel in self.able if kernel.refusal(network, inputs) is None)


def differentiated_by_functorch() -> bool:
    """Whether a transformation of torch.func is at work: those see through torch's own operations alone."""
    return torch._C._functorch.maybe_current_level() is not None  # type: ignore[attr-defined]


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
