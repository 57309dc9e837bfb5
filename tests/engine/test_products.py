"""The matrix product of a browser's tab: assembled from its source, and run by another WebAssembly machine."""

import ctypes
from collections.abc import Iterator
from pathlib import Path

import tinymi
from tests.variants import error
from tinymi.arrays import Array
from tinymi.machine import products
from tinymi.machine.products import CODE, Kernel, product

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
def calls() -> Iterator[list[tuple[int, ...]]]:
    """NumPy multiplies as in a browser's tab; the sizes of each call of the kernel."""
    sizes: list[tuple[int, ...]] = []
    real = kernel()

    def counted(weights: int, rows: int, out: int, *rest: int) -> None:
        sizes.append(rest)
        real(weights, rows, out, *rest)

    undo = products.use(counted)
    yield sizes
    undo()


def random(*shape: int) -> Array:
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


@pytest.mark.parametrize("n", [1, 2, 3, 6, 17])
@pytest.mark.parametrize(("n_out", "n_in"), [(64, 4), (66, 576), (193, 35)])
def test_the_kernel(n_out: int, n_in: int, n: int) -> None:
    for left in (random(n_out, n_in), random(n_in, n_out).T):
        for right in (random(n_in, n), random(n, n_in).T, random(n, 2 * n_in)[:, ::2].T):
            expected = left.astype(np.float64) @ right
            assert error(product(left, right, kernel()), expected) < 1e-6
            assert error(product(right.T, left.T, kernel()), expected.T) < 1e-6


def apart(x: Array) -> Array:
    """The same numbers, with others between them."""
    wide = random(x.shape[0], 2 * x.shape[1])
    wide[:, ::2] = x
    return wide[:, ::2]


LARGE = [
    (random(64, 36), random(36, 60)),
    (random(60, 36).T, random(60, 64)),
    (random(1, 400), random(300, 400).T),
    (random(300, 401), random(401)),
    (random(401), random(300, 401).T),
    (random(5, 40, 64), random(64, 72)),
    (random(40, 64), random(5, 64, 72)),
    (random(2, 1, 40, 64), random(3, 64, 72)),
    (random(72, 5, 40).transpose(1, 2, 0), random(72, 64)),
    (apart(random(50, 70)), apart(random(70, 50))),
    (apart(random(50, 70)).T, apart(random(50, 70))),
    (np.broadcast_to(random(70), (50, 70)), random(70, 50)),
]


@pytest.mark.parametrize(("left", "right"), LARGE)
def test_numpy_multiplies_with_it(left: Array, right: Array, calls: list[tuple[int, ...]]) -> None:
    expected = np.matmul(left.astype(np.float64), right.astype(np.float64))
    found = left @ right
    assert calls
    assert found.shape == expected.shape
    assert found.dtype == np.float32
    assert error(found, expected) < 1e-6
    out = np.full((*expected.shape, 2), np.nan, np.float32)[..., 0]  # with others between its numbers
    assert np.matmul(left, right, out=out) is out
    assert np.array_equal(out, found)


SMALL = [
    (random(6, 64), random(64, 8)),
    (random(9, 6, 64), random(9, 64, 6)),
    (random(400, 300).T, random(400)),  # few rows, and the matrix would have to be copied
    (random(64, 36)[::-1], random(36, 60)),
    (random(64, 36).astype(np.float64), random(36, 60)),
    (random(64, 0), random(0, 60)),
    (random(0, 36), random(36, 60)),
]


@pytest.mark.parametrize(("left", "right"), SMALL)
def test_what_does_not_pay_is_left_to_numpy(left: Array, right: Array, calls: list[tuple[int, ...]]) -> None:
    expected = np.einsum("...ij,...jk->...ik", left, right) if right.ndim > 1 else np.einsum("ij,j->i", left, right)
    assert np.allclose(left @ right, expected, rtol=1e-4, atol=1e-4)
    assert (left @ right).dtype == expected.dtype
    assert not calls


def test_an_array_may_be_multiplied_into_itself(calls: list[tuple[int, ...]]) -> None:
    x, y = random(64, 64), random(64, 64)
    expected = x @ y
    np.matmul(x, y, out=x)
    assert np.array_equal(x, expected)
    assert calls


def test_what_is_not_a_number_stays_so(calls: list[tuple[int, ...]]) -> None:
    left, right = random(64, 80), random(80, 30)
    left[5, 2], right[1, 2] = np.inf, np.nan
    found = left @ right
    assert calls
    with np.errstate(invalid="ignore"):
        assert np.array_equal(np.isfinite(found), np.isfinite(left.astype(np.float64) @ right))


def test_a_lack_of_memory_costs_no_product(calls: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(x: Array) -> Array:
        raise MemoryError

    monkeypatch.setattr(products, "_padded", full)
    left, right = random(5, 64, 80), random(80, 30)
    assert error(left @ right, np.matmul(left.astype(np.float64), right)) < 1e-6
    assert not calls


def test_it_can_be_undone() -> None:
    sizes: list[tuple[int, ...]] = []
    products.use(lambda *rest: sizes.append(rest))()
    assert np.isfinite(random(64, 80) @ random(80, 30)).all()
    assert not sizes


def test_a_model_computes_the_same(tiny_model: tinymi.Model, tiny_folder: Path, calls: list[tuple[int, ...]]) -> None:
    """As in float64, which is left to NumPy."""
    tokens = np.arange(140).reshape(10, 14)
    d_logits = random(10, 14, tiny_model.config.d_vocab)
    found, _, gradients = tiny_model.run_with_gradients(tokens, d_logits)
    assert calls
    exact = tinymi.load(tiny_folder, dtype=np.float64)
    expected, _, reference = exact.run_with_gradients(tokens, d_logits)
    assert error(found, expected) < 1e-5
    assert error(gradients["blocks.0.hook_resid_pre"], reference["blocks.0.hook_resid_pre"]) < 1e-5
