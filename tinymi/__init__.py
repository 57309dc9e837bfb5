"""tinymi: see what happens inside a language model, in NumPy alone."""

from tinymi.machine import blas, malloc

blas.request_avx512_kernels()  # before anything loads NumPy
blas.choose_threads()
malloc.keep_freed_memory()

from tinymi.backward import log_probability, logit_difference
from tinymi.checkpoint import load
from tinymi.checkpoint.dictionary_files import load_dictionary, save_dictionary
from tinymi.config import Config
from tinymi.dictionaries import Dictionary, loss_recovered, reconstruct_across, unexplained_variance
from tinymi.errors import (
    ConfigError,
    ConfigWarning,
    HookError,
    InputError,
    MemoryShortageError,
    MemoryWarning,
    NotCachedError,
    SourceError,
    SweepError,
    TinymiError,
    TinymiWarning,
    TokenizerError,
    WeightsError,
    WeightsWarning,
)
from tinymi.generation import KeyValueCache
from tinymi.hooks import POINTS, ActivationCache, HookPoint, Point, get_act_name
from tinymi.machine import products
from tinymi.run import Model
from tinymi.tokenizer import Tokenizer
from tinymi.version import __version__
from tinymi.weights import BlockWeights, HeadWeights, Weights

products.fast_in_browser()

__all__ = [
    "POINTS",
    "ActivationCache",
    "BlockWeights",
    "Config",
    "ConfigError",
    "ConfigWarning",
    "Dictionary",
    "HeadWeights",
    "HookError",
    "HookPoint",
    "InputError",
    "KeyValueCache",
    "MemoryShortageError",
    "MemoryWarning",
    "Model",
    "NotCachedError",
    "Point",
    "SourceError",
    "SweepError",
    "TinymiError",
    "TinymiWarning",
    "Tokenizer",
    "TokenizerError",
    "Weights",
    "WeightsError",
    "WeightsWarning",
    "__version__",
    "get_act_name",
    "load",
    "load_dictionary",
    "log_probability",
    "logit_difference",
    "loss_recovered",
    "reconstruct_across",
    "save_dictionary",
    "unexplained_variance",
]
