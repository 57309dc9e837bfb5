"""Gradients at every hook point by torch's autograd: transformers' model with its inner values laid open.

Norm and attention are spelled out here so that their inner values have names, and so that they compute in the model's
own type, where transformers goes through float32. All else is transformers' code.
"""

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from unittest.mock import patch

from tinymi.arrays import Array, Tokens

import numpy as np
import torch

Edit = Callable[[Any], Any]


class Recorder:
    """Keeps each value by its hook point's name, after the edit that belongs there."""

    def __init__(self, edits: Mapping[str, Edit], freeze: tuple[str, ...]) -> None:
        self.values: dict[str, Any] = {}
        self.edits, self.freeze = edits, freeze

    def __call__(self, name: str, value: Any) -> Any:
        if name in self.edits:
            value = self.edits[name](value)
        if not value.requires_grad:  # the first value of all
            value.requires_grad_(True)
        value.retain_grad()
        self.values[name] = value
        return value

    def frozen(self, what: str, value: Any) -> Any:
        return value.detach() if what in self.freeze else value


def torch_gradients(
    model: Any,
    tokens: Tokens,
    d_logits: Callable[[Array], Array],
    edits: Mapping[str, Edit] | None = None,
    freeze: tuple[str, ...] = (),
    *,
    angles: tuple[Array, Array],
) -> tuple[Array, dict[str, Array]]:
    """The logits of a transformers model, and d metric / d value at every hook point, `hook_result` left out.

    d_logits: from the logits to the metric's derivative with respect to them. edits: by hook point's name.
    """
    record = Recorder(edits or {}, freeze)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    with laid_open(model, record, angles):
        logits = record("unembed.hook_out", model(torch.from_numpy(tokens)).logits)
        logits.backward(torch.from_numpy(d_logits(logits.detach().numpy())).to(logits.dtype))
    zero = {name: np.zeros(value.shape) for name, value in record.values.items()}
    return logits.detach().numpy(), zero | {
        name: value.grad.numpy() for name, value in record.values.items() if value.grad is not None
    }


@contextlib.contextmanager
def laid_open(model: Any, record: Recorder, angles: tuple[Array, Array]) -> Iterator[None]:
    """For the length of a `with`, the model's values pass through `record`.

    angles: cosine and sine of RoPE's angles, rounded to float32 as NumPy rounds them and not as torch does.
    """
    modeling = sys.modules[type(model).__module__]
    rotate = modeling.apply_rotary_pos_emb
    layer_of = {id(layer.self_attn): number for number, layer in enumerate(model.model.layers)}
    current = [0]  # the layer that runs

    def rotary(q: Any, k: Any, cos: Any, sin: Any) -> Any:
        prefix = f"blocks.{current[0]}.attn.hook_rot_"
        cos, sin = (torch.from_numpy(np.tile(x[:, :, 0], 2)).to(q.dtype) for x in angles)  # [1, pos, d_head]
        q, k = rotate(q, k, cos, sin)  # [batch, heads, pos, d_head]
        return tuple(record(prefix + name, x.transpose(1, 2)).transpose(1, 2) for name, x in (("q", q), ("k", k)))

    def attention(module: Any, q: Any, k: Any, v: Any, mask: Any, scaling: float, **more: Any) -> Any:
        prefix = f"blocks.{layer_of[id(module)]}.attn.hook_"
        k = modeling.repeat_kv(k, module.num_key_value_groups)
        v = modeling.repeat_kv(v, module.num_key_value_groups)
        scores = record(prefix + "attn_scores", q @ k.transpose(2, 3) * scaling + mask)
        pattern = record(prefix + "pattern", record.frozen("pattern", torch.softmax(scores, dim=-1)))
        return record(prefix + "z", (pattern @ v).transpose(1, 2)), pattern

    def norm(name: str, module: Any) -> Callable[[Any], Any]:
        def forward(x: Any) -> Any:
            scale = record(f"{name}.hook_scale", record.frozen("scale", rms(x, module)))
            return record(f"{name}.hook_normalized", x / scale) * module.weight

        return forward

    def rms(x: Any, module: Any) -> Any:
        return (x.pow(2).mean(-1, keepdim=True) + module.variance_epsilon).sqrt()

    def mlp(prefix: str, module: Any) -> Callable[[Any], Any]:
        def forward(x: Any) -> Any:
            pre = record(f"{prefix}.mlp.hook_pre", module.gate_proj(x))
            pre_linear = record(f"{prefix}.mlp.hook_pre_linear", module.up_proj(x))
            gate = record.frozen("gate", torch.nn.functional.silu(pre))
            return module.down_proj(record(f"{prefix}.mlp.hook_post", gate * pre_linear))

        return forward

    def projection(name: str, module: Any, d_head: int) -> Callable[[Any], Any]:
        inner = type(module).forward

        def forward(x: Any) -> Any:
            heads = record(name, inner(module, x).unflatten(-1, (-1, d_head)))  # [batch, pos, heads, d_head]
            return heads.flatten(-2)

        return forward

    def block(number: int, layer: Any) -> Callable[..., Any]:
        prefix = f"blocks.{number}"

        def forward(hidden_states: Any, **more: Any) -> Any:
            current[0] = number
            resid_pre = record(f"{prefix}.hook_resid_pre", hidden_states)
            attn_out = layer.self_attn(hidden_states=layer.input_layernorm(resid_pre), **more)[0]
            resid_mid = record(f"{prefix}.hook_resid_mid", resid_pre + record(f"{prefix}.hook_attn_out", attn_out))
            mlp_out = layer.mlp(layer.post_attention_layernorm(resid_mid))
            return record(f"{prefix}.hook_resid_post", resid_mid + record(f"{prefix}.hook_mlp_out", mlp_out))

        return forward

    def normed_head(module: Any) -> Callable[[Any], Any]:
        return lambda x: x / rms(x, module) * module.weight

    with contextlib.ExitStack() as stack:

        def put(target: Any, name: str, value: Any) -> None:
            stack.enter_context(patch.object(target, name, value))

        put(modeling, "apply_rotary_pos_emb", rotary)
        put(modeling, "eager_attention_forward", attention)
        embed = type(model.model.embed_tokens).forward
        put(
            model.model.embed_tokens,
            "forward",
            lambda ids: record("hook_embed", embed(model.model.embed_tokens, ids).clone()),
        )
        put(model.model.norm, "forward", norm("ln_final", model.model.norm))
        for number, layer in enumerate(model.model.layers):
            prefix = f"blocks.{number}"
            put(layer, "forward", block(number, layer))
            put(layer.input_layernorm, "forward", norm(f"{prefix}.ln1", layer.input_layernorm))
            put(layer.post_attention_layernorm, "forward", norm(f"{prefix}.ln2", layer.post_attention_layernorm))
            put(layer.mlp, "forward", mlp(prefix, layer.mlp))
            attn = layer.self_attn
            for short in ("q", "k", "v"):
                module = getattr(attn, f"{short}_proj")
                put(module, "forward", projection(f"{prefix}.attn.hook_{short}", module, attn.head_dim))
            for name in ("q_norm", "k_norm"):
                if hasattr(attn, name):
                    put(getattr(attn, name), "forward", normed_head(getattr(attn, name)))
        yield
