"""The matrix product of a browser's tab: assembled from its source, and run by another WebAssembly machine."""

import ctypes

import tinymi
from tests.variants import error
from tinymi.arrays import Array
from tinymi.machine import products
from tinymi.machine.products import CODE, Kernel, matmul
from tinymi.teaching.watch import watch

import numpy as np
import pytest
import wasmtime


def test_the_code_is_its_source_assembled() -> None:
    assert CODE.read_bytes() == bytes(wasmtime.wat2wasm(CODE.with_suffix(".wat").read_text("utf-8")))


def kernel() -> Kernel:
    """The function of products.wasm in a memory of its own, with copies of what lies at the addresses given."""
    store = wasmtime.Store()
    memory = wasmtime.Memory(store, wasmtime.MemoryType(wasmtime.Limits(256, None)))
    instance = wasmtime.Instance(store, wasmtime.Module(store.engine, CODE.read_bytes()), [memory])
    run = instance.exports(store)["products"]

    def multiply(weights: int, rows: int, out: int, n_out: int, n_rows: int, n_in: int) -> None:
        n_read, n_written = 4 * (n_out + n_rows) * n_in, 4 * n_out * n_rows
        memory.write(store, ctypes.string_at(weights, 4 * n_out * n_in))
        memory.write(store, ctypes.string_at(rows, 4 * n_rows * n_in), 4 * n_out * n_in)
        memory.write(store, b"\xff" * (n_written + 16), n_read)
        run(store, 0, 4 * n_out * n_in, n_read, n_out, n_rows, n_in)
        assert memory.read(store, n_read + n_written, n_read + n_written + 16) == b"\xff" * 16, "it wrote too far"
        ctypes.memmove(out, bytes(memory.read(store, n_read, n_read + n_written)), n_written)

    return multiply


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """As in a browser's tab; the sizes of each call of the kernel."""
    sizes: list[tuple[int, ...]] = []
    real = kernel()

    def counted(weights: int, rows: int, out: int, *rest: int) -> None:
        sizes.append(rest)
        real(weights, rows, out, *rest)

    monkeypatch.setattr(products, "_kernel", counted)
    return sizes


def random(*shape: int) -> Array:
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


@pytest.mark.parametrize("n", [1, 2, 3, 6, 17])
@pytest.mark.parametrize(("n_out", "n_in"), [(64, 4), (66, 576), (192, 36)])
def test_products(n_out: int, n_in: int, n: int, calls: list[tuple[int, ...]]) -> None:
    left = random(n_out, n_in)
    for right in (random(n_in, n), random(n, n_in).T, random(n, 2 * n_in)[:, ::2].T):
        found = matmul(left, right)
        assert found.shape == (n_out, n)
        assert error(found, left.astype(np.float64) @ right) < 1e-6
    assert calls == [(n_out, n + n % 2, n_in)] * 3


def test_what_is_not_a_number_stays_so(calls: list[tuple[int, ...]]) -> None:
    left, right = random(64, 8), random(8, 3)
    left[5, 2], right[1, 2] = np.inf, np.nan
    found = matmul(left, right)
    with np.errstate(invalid="ignore"):
        assert np.array_equal(np.isfinite(found), np.isfinite(left @ right))
    assert calls


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (random(65, 8), random(8, 2)),
        (random(64, 6), random(6, 2)),
        (random(6, 64), random(64, 8)),
        (random(8, 64).T, random(8, 2)),
        (random(64, 8)[::2], random(8, 2)),
        (random(64, 8).astype(np.float64), random(8, 2)),
        (random(64, 8), random(8, 0)),
        (random(64, 0), random(0, 2)),
    ],
)
def test_what_does_not_fit_is_left_to_numpy(left: Array, right: Array, calls: list[tuple[int, ...]]) -> None:
    assert np.allclose(matmul(left, right), np.matmul(left, right), rtol=1e-5, atol=1e-5)
    assert matmul(left, right).dtype == np.matmul(left, right).dtype
    assert not calls


def test_a_model_computes_the_same(tiny_model: tinymi.Model, calls: list[tuple[int, ...]]) -> None:
    tokens = np.arange(14).reshape(2, 7)
    d_logits = random(2, 7, tiny_model.config.d_vocab)
    found, _, gradients = tiny_model.run_with_gradients(tokens, d_logits)
    assert calls
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(products, "_kernel", None)
        expected, _, reference = tiny_model.run_with_gradients(tokens, d_logits)
    assert error(found, expected) < 1e-5
    assert error(gradients["blocks.0.hook_resid_pre"], reference["blocks.0.hook_resid_pre"]) < 1e-5


def test_a_run_is_watched(tiny_model: tinymi.Model, calls: list[tuple[int, ...]]) -> None:
    """Every product is seen, as elsewhere."""
    tokens = np.arange(7)[None]
    seen = {name: step.matmuls for name, step in watch(tiny_model, tokens).items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(products, "_kernel", None)
        expected = {name: step.matmuls for name, step in watch(tiny_model, tokens).items()}
    assert seen == expected
    assert seen["unembed.hook_out"]
