"""The `tokenizers` library, or where it is not installed, byte-level BPE in plain Python under the same names."""

try:
    from tokenizers import AddedToken, Tokenizer
    from tokenizers.processors import TemplateProcessing
except ImportError:
    from tinymi.checkpoint.byte_level_bpe import (  # type: ignore[assignment]
        AddedToken,
        TemplateProcessing,
        Tokenizer,
    )

__all__ = ["IN_PYTHON", "AddedToken", "TemplateProcessing", "Tokenizer"]

IN_PYTHON = Tokenizer.__module__.startswith("tinymi")
