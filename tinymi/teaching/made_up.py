"""A small made-up model: random weights, no tokenizer, and no two sizes equal, so that a swapped axis shows."""

from functools import cache

from tinymi.arrays import Array
from tinymi.config import Config
from tinymi.run import Model
from tinymi.weights import BlockWeights, Weights

import numpy as np

CONFIG = Config(
    architecture="LlamaForCausalLM",
    n_layers=3,
    n_heads=4,
    n_kv_heads=2,
    d_model=20,
    d_head=6,
    d_mlp=15,
    d_vocab=50,
    n_ctx=64,
    rms_eps=1e-5,
    rope_base=100.0,
)


@cache
def made_up_model() -> Model:
    """The norms' weights are random, too: a formula that forgets them cannot agree."""
    rng, c = np.random.default_rng(0), CONFIG

    def matrix(d_in: int, d_out: int) -> Array:
        return rng.normal(scale=d_in**-0.5, size=(d_in, d_out)).astype(np.float32)

    def norm() -> Array:
        return rng.uniform(0.5, 2, c.d_model).astype(np.float32)

    def block() -> BlockWeights:
        d_q, d_kv = c.n_heads * c.d_head, c.n_kv_heads * c.d_head
        W_Q, W_K, W_V = (matrix(c.d_model, d) for d in (d_q, d_kv, d_kv))
        W_gate, W_in = matrix(c.d_model, c.d_mlp), matrix(c.d_model, c.d_mlp)
        W_O, W_out = matrix(d_q, c.d_model), matrix(c.d_mlp, c.d_model)
        return BlockWeights(c.d_head, norm(), W_Q, W_K, W_V, W_O, norm(), W_gate, W_in, W_out)

    W_E = rng.normal(size=(c.d_vocab, c.d_model)).astype(np.float32)
    blocks = [block() for _ in range(c.n_layers)]
    return Model(c, Weights(W_E, blocks, norm(), matrix(c.d_model, c.d_vocab)))
