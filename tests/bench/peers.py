"""The same work done with Hugging Face and TransformerLens, as their users do it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tinymi.arrays import Tokens

import torch


class HuggingFace:
    """transformers on the same folder, in float32."""

    name = "Hugging Face"

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModelForCausalLM

        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def forward(self, tokens: Tokens) -> Callable[[], Any]:
        ids = torch.from_numpy(tokens)
        return lambda: self._run(ids)

    def _run(self, ids: Any) -> Any:
        with torch.no_grad():
            return self.model(ids).logits

    def gradients(self, tokens: Tokens, answer: int, foil: int) -> Callable[[], Any]:
        """Back to the embedding by autograd, which takes no derivative with respect to a weight here either."""
        self.model.requires_grad_(False)
        ids = torch.from_numpy(tokens)

        def run() -> Any:
            embed = self.model.get_input_embeddings()(ids).requires_grad_(True)
            last = self.model(inputs_embeds=embed).logits[:, -1]
            return torch.autograd.grad((last[:, answer] - last[:, foil]).sum(), embed)[0].numpy()

        return run

    def generate(self, tokens: Tokens, n: int) -> Callable[[], Any]:
        ids = torch.from_numpy(tokens)
        settings = {"max_new_tokens": n, "min_new_tokens": n, "do_sample": False, "pad_token_id": 0}
        return lambda: self.model.generate(ids, attention_mask=torch.ones_like(ids), **settings)


class TransformerLens:
    """TransformerLens 3 and newer: its bridge around the transformers model."""

    name = "TransformerLens"

    def __init__(self, folder: Path) -> None:
        from transformer_lens.model_bridge import TransformerBridge

        self.model = TransformerBridge.boot_transformers(str(folder), dtype=torch.float32)

    def _cache(self, ids: Any) -> Any:
        with torch.no_grad():
            return self.model.run_with_cache(ids)

    def run_with_cache(self, tokens: Tokens) -> Callable[[], Any]:
        ids = torch.from_numpy(tokens)
        return lambda: self._cache(ids)

    def knock_out(self, tokens: Tokens, layer: int, head: int) -> Any:
        """The last logits of a batch without one head, its pattern set to zero by a hook."""

        def hook(pattern: Any, hook: Any) -> Any:
            pattern[:, head] = 0
            return pattern

        name = f"blocks.{layer}.attn.hook_pattern"
        with torch.no_grad():
            return self.model.run_with_hooks(torch.from_numpy(tokens), fwd_hooks=[(name, hook)])[:, -1]


HF_LENS = """
import sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32).eval()
ids = AutoTokenizer.from_pretrained(sys.argv[1])("The capital of France is", return_tensors="pt").input_ids
with torch.no_grad():
    out = model(ids, output_hidden_states=True)
    for state in out.hidden_states[1:-1]:
        print(model.lm_head(model.model.norm(state[:, -1])).argmax())
    print(out.logits[:, -1].argmax())
"""
TL_LENS = """
import sys, torch
from transformer_lens.model_bridge import TransformerBridge
model = TransformerBridge.boot_transformers(sys.argv[1], dtype=torch.float32)
with torch.no_grad():
    _, cache = model.run_with_cache(model.to_tokens("The capital of France is"))
    for layer in range(model.cfg.n_layers):
        print(model.unembed(model.ln_final(cache[f"blocks.{layer}.hook_resid_post"][:, -1:]))[0, -1].argmax())
"""
TINYMI_LENS = """
import sys, numpy as np, tinymi
model = tinymi.load(sys.argv[1])
points = [f"blocks.{i}.hook_resid_post" for i in range(model.config.n_layers)]
_, cache = model.run_with_cache(model.to_tokens("The capital of France is"), points, positions=-1)
resid = np.stack([cache[point][0, -1] for point in points])
scale = np.sqrt(np.mean(resid * resid, axis=-1, keepdims=True) + model.config.rms_eps)
print(((resid / scale * model.weights.ln_final) @ model.weights.W_U).argmax(axis=-1))
"""
