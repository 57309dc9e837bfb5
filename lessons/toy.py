"""A transformer built by hand: two layers of attention, no training, and every number in it has a reason.

It copies: after "ABCDA" it says B, as A was followed by B before. Head 0.0 writes at each position which token stands
before it. Head 1.0 looks for the position whose note names its own token, and says the token that stands there. Heads
0.1 and 1.1, and both MLPs, are zero: a method that finds them is wrong.

    python lessons/toy.py FOLDER            # writes it as a checkpoint, for tinymi.load(FOLDER) and --model FOLDER
"""

import json
import math
import sys
from pathlib import Path

from tinymi.arrays import Array
from tinymi.checkpoint.safetensors_file import write_file

import numpy as np

LETTERS = "^ABCDEFGHIJKLMNO"  # the vocabulary; ^ begins each text
N = len(LETTERS)
D_MODEL, D_HEAD, N_HEADS = 3 * N + 2, 64, 2
# Pair f of a head turns by 10 ** (-f / 4) a position: pairs 0 to 15 tell places, the others hardly turn.
ROPE_BASE = 1e8

# The residual stream, by its coordinates.
TOKEN = np.arange(N)  # which token stands here
NOTE = N + TOKEN  # which token stands before this one: written by head 0.0
NEXT = 2 * N + TOKEN  # which token comes next: written by head 1.0
ONE = 3 * N  # always 1

PLACES = np.arange(16)  # the pairs of a head that turn; a pair is coordinates f and f + 32
NAMES = 16 + TOKEN  # coordinates that hardly turn, one for each token
SINK = 48  # a coordinate that hardly turns

# RMSNorm divides by the root mean square. The stream has two ones before layer 0 and three before layer 1, so a 1 is
# read as 5 there, and as 4.08 here.
READ_0, READ_1 = math.sqrt(D_MODEL / 2), math.sqrt(D_MODEL / 3)
SHARP = 20.0  # by how much the right score is above the others


def embedding() -> Array:
    """Each token's row says which token it is, and has the constant 1. [N, D_MODEL]"""
    W_E = np.zeros((N, D_MODEL))
    W_E[TOKEN, TOKEN] = 1
    W_E[:, ONE] = 1
    return W_E


def unembedding() -> Array:
    """A token's logit is what NEXT says of it. [D_MODEL, N]"""
    W_U = np.zeros((D_MODEL, N))
    W_U[NEXT, TOKEN] = 2
    return W_U


def previous_token_head() -> tuple[Array, Array, Array, Array]:
    """W_Q, W_K, W_V [D_MODEL, D_HEAD] and W_O [D_HEAD, D_MODEL] of head 0.0."""
    W_Q, W_K, W_V, W_O = (np.zeros(shape) for shape in [(D_MODEL, D_HEAD)] * 3 + [(D_HEAD, D_MODEL)])
    turn = 10.0 ** (-PLACES / 4)  # of each pair, for one position
    size = math.sqrt(SHARP / (1 - np.cos(turn)).sum() * math.sqrt(D_HEAD)) / READ_0
    # The key is the same everywhere, so that after RoPE it tells its place and nothing else.
    W_K[ONE, PLACES] = size
    # The query is this key, turned back by one position: after RoPE it equals the key of the position before.
    W_Q[ONE, PLACES] = size * np.cos(turn)
    W_Q[ONE, PLACES + 32] = -size * np.sin(turn)
    # It fetches the token that stands there, and notes it.
    W_V[TOKEN, TOKEN] = 1 / READ_0
    W_O[TOKEN, NOTE] = 1
    return W_Q, W_K, W_V, W_O


def induction_head() -> tuple[Array, Array, Array, Array]:
    """The same of head 1.0."""
    W_Q, W_K, W_V, W_O = (np.zeros(shape) for shape in [(D_MODEL, D_HEAD)] * 3 + [(D_HEAD, D_MODEL)])
    size = math.sqrt(SHARP * math.sqrt(D_HEAD)) / READ_1
    # The query asks for this token; the key offers the note. This is composition through keys.
    W_Q[TOKEN, NAMES] = size
    W_K[NOTE, NAMES] = size
    # Where nothing fits, it rests on ^, with half the score of a fit: an attention sink.
    W_Q[ONE, SINK] = size
    W_K[TOKEN[0], SINK] = size / 2
    # It fetches the token that stands there and says it comes next; ^ has no value, so the sink is silent.
    W_V[TOKEN[1:], TOKEN[1:]] = 1 / READ_1
    W_O[TOKEN, NEXT] = 4
    return W_Q, W_K, W_V, W_O


def tensors() -> dict[str, Array]:
    """All weights under Hugging Face's names, which keeps matrices as [d_out, d_in]."""
    weights = {"model.embed_tokens.weight": embedding(), "lm_head.weight": unembedding().T}
    weights["model.norm.weight"] = np.ones(D_MODEL)
    for layer, head in enumerate((previous_token_head(), induction_head())):
        prefix = f"model.layers.{layer}."
        for name, W in zip("qkv", head):
            weights[f"{prefix}self_attn.{name}_proj.weight"] = np.hstack([W, 0 * W]).T  # head 1 is zero
        weights[f"{prefix}self_attn.o_proj.weight"] = np.vstack([head[3], 0 * head[3]]).T
        for name, shape in {"gate": (1, D_MODEL), "up": (1, D_MODEL), "down": (D_MODEL, 1)}.items():
            weights[f"{prefix}mlp.{name}_proj.weight"] = np.zeros(shape)
        for name in ("input", "post_attention"):
            weights[f"{prefix}{name}_layernorm.weight"] = np.ones(D_MODEL)
    return weights


CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_act": "silu",
    "num_hidden_layers": 2,
    "num_attention_heads": N_HEADS,
    "num_key_value_heads": N_HEADS,
    "hidden_size": D_MODEL,
    "head_dim": D_HEAD,
    "intermediate_size": 1,
    "vocab_size": N,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-9,
    "rope_theta": ROPE_BASE,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
}


def save(folder: Path) -> None:
    """Write the checkpoint: weights, config, and a tokenizer that cuts a text into letters and puts ^ in front."""
    from tokenizers import Tokenizer, models, processors

    folder.mkdir(parents=True, exist_ok=True)
    weights = tensors()
    write_file(folder / "model.safetensors", {name: W.shape for name, W in weights.items()}, weights.values())
    (folder / "config.json").write_text(json.dumps(CONFIG, indent=2))
    tokenizer = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(LETTERS)}, merges=[]))
    tokenizer.add_special_tokens(["^"])
    tokenizer.post_processor = processors.TemplateProcessing(single="^ $A", special_tokens=[("^", 0)])
    tokenizer.save(str(folder / "tokenizer.json"))


if __name__ == "__main__":
    save(Path(sys.argv[1]))
