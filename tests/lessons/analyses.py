"""What several lessons measure, measured on a transformers model: the logit lens, distances, heads taken out."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from tinymi.arrays import Tokens

import numpy as np
import torch


def logit_lens(reference: Any, tokens: Tokens) -> Any:
    """Logits after the embedding and after each layer, by the model's own norm and head: [1 + n_layers, pos, d_vocab].

    tokens: [1, pos].
    """
    with torch.no_grad():
        out = reference(torch.from_numpy(tokens), output_hidden_states=True)
        states = [reference.lm_head(reference.model.norm(state))[0] for state in out.hidden_states[:-1]]
        return torch.stack([*states, out.logits[0]]).double()


def kl_bits(logits: Any, other: Any) -> float:
    """The Kullback-Leibler divergence D(softmax(logits) || softmax(other)), in bits."""
    p, q = torch.log_softmax(logits, dim=-1), torch.log_softmax(other, dim=-1)
    return float((p.exp() * (p - q)).sum() / np.log(2))


class Writes:
    """What each component of a transformers model writes at the last position; one of them may be turned down."""

    def __init__(self, reference: Any) -> None:
        self.values: dict[str, Any] = {}  # of the last run, by our hook point: [d_model]
        self.removed: str | None = None
        self.dose = 0.0
        reference.model.embed_tokens.register_forward_hook(self._keep("hook_embed"))
        for i, layer in enumerate(reference.model.layers):
            layer.self_attn.register_forward_hook(self._keep(f"blocks.{i}.hook_attn_out"))
            layer.mlp.register_forward_hook(self._keep(f"blocks.{i}.hook_mlp_out"))

    def _keep(self, name: str) -> Any:
        def hook(module: Any, args: Any, output: Any) -> Any:
            value = (output[0] if isinstance(output, tuple) else output).clone()
            if name == self.removed:
                value[:, -1] *= self.dose
            self.values[name] = value[0, -1].detach().double()
            return (value, *output[1:]) if isinstance(output, tuple) else value

        return hook


@contextmanager
def without_heads(reference: Any, heads: Mapping[int, Sequence[int]], d_head: int) -> Iterator[None]:
    """For the length of a `with`, the heads of some layers write nothing: their slices of o_proj's input are zero."""

    def remover(layer: int) -> Any:
        def remove(module: Any, args: Any) -> Any:
            z = args[0].unflatten(-1, (-1, d_head)).clone()
            z[..., list(heads[layer]), :] = 0
            return (z.flatten(-2),)

        return remove

    modules = {layer: reference.model.layers[layer].self_attn.o_proj for layer in heads}
    handles = [module.register_forward_pre_hook(remover(layer)) for layer, module in modules.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
