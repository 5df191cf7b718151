"""Winograd's minimal filtering: matrices, rounding errors, and which convolutions use it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from mnist_jax.kernels import ops, winograd, winograd_2d


def correlate_float64(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Correlates [C, H, W, N] with [kh, kw, C, O] to [O, h, w, N]."""
    windows = np.lib.stride_tricks.sliding_window_view(
        x.astype(np.float64), kernel.shape[:2], axis=(1, 2)
    )
    return np.einsum("chwnij,ijco->ohwn", windows, kernel.astype(np.float64), optimize=True)


@pytest.mark.parametrize(
    ("rows", "taps", "expected"), [(1, 4, False), (2, 3, False), (3, 3, True), (5, 2, False)]
)
def test_it_is_worthwhile_if_whole_tiles_need_fewer_multiplications(
    rows: int, taps: int, expected: bool
) -> None:
    # A tile of four rows takes taps + 3 products; a row on its own takes `taps`.
    kernel = jnp.zeros((taps, taps, 2, 3))
    assert winograd.worthwhile(jnp.zeros((2, rows + taps - 1, 9, 4)), kernel) is expected


@pytest.mark.parametrize("taps", [2, 3, 4, 5])
def test_the_matrices_compute_a_correlation(taps: int) -> None:
    a, b, g = winograd.transforms(taps)
    rng = np.random.default_rng(taps)
    inputs, weights = rng.normal(size=taps + 3), rng.normal(size=taps)

    outputs = a.T @ ((g @ weights) * (b @ inputs))

    assert a.shape[1] == 4
    np.testing.assert_allclose(outputs, np.correlate(inputs, weights), atol=1e-13)


@pytest.mark.parametrize("kernel", [(5, 5, 24, 64), (5, 5, 6, 16), (3, 3, 64, 128), (3, 3, 5, 10)])
def test_the_relative_rounding_error_is_below_a_millionth(
    kernel: tuple[int, int, int, int],
) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(kernel[2], 14, 14, 8)).astype(np.float32)
    w = rng.normal(size=kernel).astype(np.float32)
    expected = correlate_float64(x, w)

    error = np.linalg.norm(winograd.correlate(jnp.asarray(x), jnp.asarray(w)) - expected)

    assert error < 1e-6 * np.linalg.norm(expected)


# 2×3 tiles of four images: all in one block, one row of tiles, two images, one row of two images.
@pytest.mark.parametrize(
    ("tiles", "most", "blocks"), [(24, 24, 1), (12, 24, 2), (12, 6, 2), (6, 6, 4)]
)
def test_many_channels_are_transformed_in_two_dimensions(
    tiles: int, most: int, blocks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(winograd_2d, "_TILES", tiles)
    monkeypatch.setattr(winograd_2d, "_MOST", most)
    assert winograd_2d._Blocks.of(7, 10, 4).number == blocks
    rng = np.random.default_rng(0)
    x = rng.normal(size=(128, 9, 12, 4)).astype(np.float32)
    w = rng.normal(size=(3, 3, 128, 6)).astype(np.float32)
    assert winograd_2d.supports(jnp.asarray(w))
    assert not winograd_2d.supports(jnp.asarray(w[:, :, :127]))
    assert not winograd_2d.worthwhile(jnp.asarray(x))
    assert winograd_2d.worthwhile(jnp.asarray(np.concatenate([x, x], 3)))
    expected = correlate_float64(x, w)
    grad = expected.astype(np.float32)
    # The gradients of a convolution are convolutions.
    padded = np.pad(grad, ((0, 0), (2, 2), (2, 2), (0, 0)))
    x_grad = correlate_float64(padded, w[::-1, ::-1].swapaxes(2, 3))
    w_grad = correlate_float64(x.transpose(3, 1, 2, 0), grad.transpose(1, 2, 3, 0))

    # New functions, since `jit` would return programs compiled for other blocks.
    actual = jax.jit(lambda *args: winograd_2d.correlate(*args))(x, w)
    gradients = jax.jit(lambda *args: winograd_2d.correlate_gradients(*args))(x, w, grad)

    for a, e in zip(
        (actual, *gradients), (expected, x_grad, w_grad.transpose(1, 2, 3, 0)), strict=True
    ):
        assert np.linalg.norm(np.asarray(a) - e) < 2e-6 * np.linalg.norm(e)


def test_nan_propagates_to_every_window_that_contains_it() -> None:
    x = jnp.zeros((2, 12, 12, 3)).at[1, 6, 5, 0].set(jnp.nan)
    w = jnp.ones((3, 3, 2, 4))

    expected = np.isnan(correlate_float64(np.asarray(x), np.asarray(w)))
    actual = np.isnan(winograd.correlate(x, w))

    assert expected.any()
    assert actual[expected].all()


@pytest.mark.parametrize(
    ("kernel", "supported"),
    [((1, 3), False), ((2, 3), True), ((4, 1), True), ((5, 2), True), ((6, 3), False)],
)
def test_convolutions_of_any_height_agree_with_xla(
    kernel: tuple[int, int], supported: bool
) -> None:
    x = jax.random.normal(jax.random.key(0), (3, 11, 9, 2))
    w = jax.random.normal(jax.random.key(1), (*kernel, 2, 4))
    assert winograd.supports(w) == supported
    assert not winograd.supports(w[:, :, :1])

    def plain(x: jax.Array, w: jax.Array) -> jax.Array:
        return lax.conv_general_dilated(
            x, w, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    @jax.jit
    def both(x: jax.Array, w: jax.Array) -> list[list[jax.Array]]:
        expected, pullback = jax.vjp(plain, x, w)
        ours, our_pullback = jax.vjp(ops.conv, x, w)
        return [[ours, *our_pullback(expected)], [expected, *pullback(expected)]]

    (ours, *gradients), (expected, *expected_gradients) = both(x, w)
    np.testing.assert_allclose(ours, expected, atol=1e-5)
    for a, e in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-4, atol=1e-4)
