# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Linear layers in bfloat16 on the CPU, with weights laid out once for oneDNN and GELU computed on the way out.

``F.linear`` under autocast casts the weight and brings it into oneDNN's layout in every call, and GELU reads and writes
the widest tensor of a block once more. ``torch.compile`` with frozen weights avoids both by the two operators used
here, but compiles for every shape anew. Everything else (CUDA, float32, a trace) takes the layers as they are.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["PackedLinear", "pack_linears"]


class PackedLinear(nn.Module):
    """A frozen ``nn.Linear``, followed by GELU or not, under the same names in the state dict.

    Args:
        linear: its weights are taken over and must not change afterwards.
        gelu: whether the exact GELU follows.
    """

    def __init__(self, linear: nn.Linear, gelu: bool = False) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias
        self.gelu = gelu
        self._packed: tuple[Tensor, Tensor | None] | None = None

    def __getstate__(self) -> dict[str, Any]:
        # oneDNN's layout can be neither copied nor pickled; a copy packs anew.
        return {**self.__dict__, "_packed": None}

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(…, in)`` to ``(…, out)``."""
        if not _is_bfloat16_on_cpu(x):
            y = F.linear(x, self.weight, self.bias)
            return F.gelu(y) if self.gelu else y
        if self._packed is None:
            bias = None if self.bias is None else self.bias.to(torch.bfloat16)
            self._packed = torch.ops.mkldnn._reorder_linear_weight(self.weight.to(torch.bfloat16), None), bias
        activation: tuple[Any, ...] = ("gelu", [], "none") if self.gelu else ("none", [], "")
        return torch.ops.mkldnn._linear_pointwise(x.to(torch.bfloat16), *self._packed, *activation)


def _is_bfloat16_on_cpu(x: Tensor) -> bool:
    return (
        x.device.type == "cpu"
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") == torch.bfloat16
        and not torch.jit.is_tracing()
        and not torch.compiler.is_exporting()
    )


def pack_linears(model: nn.Module) -> None:
    """Exchange the linear layers of a frozen model, in place, where this torch has oneDNN's operators.

    The GELU of a module that is two linear layers with one between, an MLP, is computed with the first of them.
    """
    operators: Any = torch.ops.mkldnn
    names = ("_linear_pointwise", "_reorder_linear_weight")
    if not torch.backends.mkldnn.is_available() or not all(hasattr(operators, name) for name in names):
        return
    for module in list(model.modules()):
        first, activation = _find_gelu(module)
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear:
                setattr(module, name, PackedLinear(child, gelu=name == first))
        if activation is not None:
            setattr(module, activation, nn.Identity())


def _find_gelu(module: nn.Module) -> tuple[str, str] | tuple[None, None]:
    """Names of the linear layer before an MLP's exact GELU and of the GELU, where a module is such an MLP."""
    children = dict(module.named_children())
    linears = [name for name, child in children.items() if type(child) is nn.Linear]
    exact = [name for name, child in children.items() if isinstance(child, nn.GELU) and child.approximate == "none"]
    exact += [name for name, child in children.items() if getattr(child, "act", None) is F.gelu]  # transformers' own
    wide = [name for name in linears if children[name].out_features > children[name].in_features]  # type: ignore
    if len(children) == 3 and len(linears) == 2 and len(exact) == 1 and len(wide) == 1:
        return wide[0], exact[0]
    return None, None
