"""tinymi: see what happens inside a language model, in NumPy alone."""

from tinymi import allocator, kernels

kernels.choose()  # before anything loads NumPy
allocator.keep_freed_memory()

from tinymi.config import Config
from tinymi.errors import (
    ConfigError,
    HookError,
    InputError,
    MemoryShortageError,
    NotCachedError,
    SourceError,
    SweepError,
    TinymiError,
    TokenizerError,
    WeightsError,
    WeightsWarning,
)
from tinymi.hooks import POINTS, ActivationCache, HookPoint, Point, get_act_name
from tinymi.key_values import KeyValueCache
from tinymi.loader import load
from tinymi.model import Model
from tinymi.tokenizer import Tokenizer
from tinymi.weights import BlockWeights, HeadWeights, MappedWeights, Weights

__version__ = "0.1.0"

__all__ = [
    "POINTS",
    "ActivationCache",
    "BlockWeights",
    "Config",
    "ConfigError",
    "HeadWeights",
    "HookError",
    "HookPoint",
    "InputError",
    "KeyValueCache",
    "MappedWeights",
    "MemoryShortageError",
    "Model",
    "NotCachedError",
    "Point",
    "SourceError",
    "SweepError",
    "TinymiError",
    "Tokenizer",
    "TokenizerError",
    "Weights",
    "WeightsError",
    "WeightsWarning",
    "get_act_name",
    "load",
]
