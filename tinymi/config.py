"""Config: the numbers that fix a model's shape and formulas."""

from dataclasses import dataclass

from tinymi.rope_scaling import RopeScaling


@dataclass(frozen=True)
class Config:
    """The shape of a LLaMA, Qwen2 or Qwen3 model. All sizes count numbers, not bytes."""

    architecture: str  # Hugging Face's class name, such as "LlamaForCausalLM"
    n_layers: int  # transformer blocks
    n_heads: int  # query heads per layer
    n_kv_heads: int  # key and value heads per layer; each serves n_heads / n_kv_heads query heads
    d_model: int  # width of the residual stream
    d_head: int  # width of a head's queries, keys and values
    d_mlp: int  # neurons per layer
    d_vocab: int  # rows of the embedding
    n_ctx: int  # most positions that the model was made for
    rms_eps: float  # added to the mean square in RMSNorm
    rope_base: float  # RoPE's longest wavelength is about 2 * pi * rope_base positions
    rope_scaling: RopeScaling | None = None
    qkv_bias: bool = False  # queries, keys and values have a bias: Qwen2, some LLaMA
    out_bias: bool = False  # so has the attention's output: some LLaMA
    mlp_bias: bool = False  # so have the MLP's three matrices: some LLaMA
    qk_norm: bool = False  # Qwen3: RMSNorm on each head's queries and keys
    tied_embeddings: bool = False  # the unembedding is the embedding, transposed
    end_tokens: tuple[int, ...] = ()  # ids that end a text: generation stops after one
    n_ctx_reason: str = ""  # what begins beyond n_ctx and is not implemented, where the model was made for more

    @property
    def limit(self) -> str:
        """How many positions a run may have, as messages say it."""
        begins = f" (beyond begins {self.n_ctx_reason}, which is not implemented)" if self.n_ctx_reason else ""
        return f"1 to {self.n_ctx}{begins}"
