"""The fully connected CRF: against a brute-force one in double precision, by hand, and against the peer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from deeplab.crf import (
    V2_RESNET101,
    CRFConfig,
    Engine,
    chosen_engine,
    compiled,
    dense_crf,
    dense_crf_from_energies,
)
from deeplab.errors import UserError
from deeplab.native import build

SMOOTH = CRFConfig(w1=4, sigma_alpha=30, sigma_beta=13, w2=3, sigma_gamma=3)
ENGINES = ("compiled", "torch")


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    if request.param == "compiled" and compiled.KERNEL.why_not:
        pytest.skip(f"compiled engine: {compiled.KERNEL.why_not}")
    return request.param


def scene(height: int, width: int, *, classes: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Coarse, noisy class probabilities and a photo of three regions in uint8, with noise."""
    rng = np.random.default_rng(seed)
    region = (np.arange(width)[None] > width // 2) + 2 * (np.arange(height)[:, None] > height // 3)
    colours = np.array([[200, 60, 40], [40, 180, 70], [60, 80, 210], [150, 150, 150]])
    photo = (colours[region] + rng.normal(0, 4, (height, width, 3))).clip(0, 255).astype(np.uint8)
    scores = 1.5 * (np.arange(classes)[:, None, None] == region % classes) + rng.normal(
        0, 1, (classes, height, width)
    )
    probabilities = np.exp(scores) / np.exp(scores).sum(0)
    return probabilities.astype(np.float32), photo


def brute_force(
    probabilities: np.ndarray,
    photo: np.ndarray,
    config: CRFConfig,
    kernel: Callable[[np.ndarray], np.ndarray],
    *,
    corner: tuple[int, int] = (0, 0),
) -> np.ndarray:
    """Ten mean-field steps with the kernels as whole matrices over all pairs of pixels, in float64.

    corner: row and column of the first pixel in a larger photo.
    """
    classes, height, width = probabilities.shape
    rows, columns = np.mgrid[:height, :width]
    place = np.stack((columns + corner[1], rows + corner[0]), 2).reshape(-1, 2).astype(float)
    colour = photo.reshape(height * width, -1).astype(float)
    features = [(np.hstack((place / config.sigma_alpha, colour / config.sigma_beta)), config.w1)]
    features += [(place / config.sigma_gamma, config.w2)]
    pairwise = sum(weight * _symmetric(kernel(vectors)) for vectors, weight in features)
    scores = np.log(probabilities.reshape(classes, -1).astype(float).clip(1e-5, 1))
    marginals = _softmax(scores)
    for _ in range(10):
        marginals = _softmax(scores + marginals @ pairwise.T)
    return marginals.reshape(probabilities.shape)


def exact_kernel(vectors: np.ndarray) -> np.ndarray:
    return np.exp(-((vectors[:, None] - vectors[None]) ** 2).sum(2) / 2)


def lattice_kernel(vectors: np.ndarray) -> np.ndarray:
    """What the permutohedral lattice makes of the Gaussian (Adams et al. 2010), with dictionaries."""
    pixels, d = vectors.shape
    scale = (d + 1) * np.sqrt(2 / 3) / np.sqrt(np.arange(1, d + 1) * np.arange(2, d + 2))
    basis = np.vstack((np.ones(d), np.tril(np.ones((d, d)), -1).T + np.diag(-np.arange(1.0, d + 1)))) * scale
    points: dict[tuple[int, ...], int] = {}
    shares = [
        (points.setdefault(corner, len(points)), pixel, share)
        for pixel, vector in enumerate(vectors)
        for corner, share in _simplex(basis @ vector)
    ]
    splat = np.zeros((len(points) + 1, pixels))
    for point, pixel, share in shares:
        splat[point, pixel] += share
    blurred = splat.copy()
    for axis in range(d + 1):
        step = -np.ones(d + 1, int) + (d + 1) * np.eye(d + 1, dtype=int)[axis]
        sides = [[points.get(tuple(np.array(p) + way * step), -1) for p in points] for way in (-1, 1)]
        blurred[:-1] += 0.5 * (blurred[sides[0]] + blurred[sides[1]])
    return splat.T @ blurred


def _simplex(elevated: np.ndarray) -> list[tuple[tuple[int, ...], float]]:
    """Corners and barycentric shares by sorting what is left over the nearest point of remainder 0."""
    size = len(elevated)
    origin = np.round(elevated / size).astype(int) * size
    order = np.argsort(origin - elevated, kind="stable")
    excess = origin.sum() // size
    moved = order[size - excess :] if excess > 0 else order[:-excess]
    origin[moved] -= size * np.sign(excess)
    order = np.argsort(origin - elevated, kind="stable")
    left = (elevated - origin)[order] / size
    corners = []
    for k in range(size):
        corner = origin + k
        corner[order[size - k :]] -= size
        share = 1 + left[-1] - left[0] if k == 0 else left[size - 1 - k] - left[size - k]
        corners.append((tuple(corner.tolist()), float(share)))
    return corners


def _symmetric(kernel: np.ndarray) -> np.ndarray:
    norm = 1 / np.sqrt(kernel.sum(1))
    return norm[:, None] * kernel * norm


def _softmax(scores: np.ndarray) -> np.ndarray:
    shifted = np.exp(scores - scores.max(0))
    return shifted / shifted.sum(0)


@pytest.mark.parametrize("config", [V2_RESNET101, SMOOTH], ids=["v2", "smooth"])
def test_equals_brute_force_on_the_lattice(engine: Engine, config: CRFConfig) -> None:
    probabilities, photo = scene(16, 20)
    found = dense_crf(probabilities, photo, parameters=config, engine=engine).numpy()
    expected = brute_force(probabilities, photo, config, lattice_kernel)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-4)


def test_far_from_the_first_pixel(engine: Engine) -> None:
    """Coordinates of large photos keep their digits. Black around the scene keeps it to itself."""
    config = CRFConfig(w1=4, sigma_alpha=3, sigma_beta=3, w2=0)
    probabilities, photo = scene(16, 20)
    wide, black = np.full((4, 16, 5000), 0.25, np.float32), np.zeros((16, 5000, 3), np.uint8)
    wide[:, :, -20:], black[:, -20:] = probabilities, photo
    found = dense_crf(wide, black, parameters=config, engine=engine).numpy()[:, :, -20:]
    expected = brute_force(probabilities, photo, config, lattice_kernel, corner=(0, 4980))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("config", [V2_RESNET101, SMOOTH], ids=["v2", "smooth"])
def test_close_to_exact_gaussians(engine: Engine, config: CRFConfig) -> None:
    """What remains is the lattice: it is a piecewise linear approximation of the Gaussian, in the peer too."""
    probabilities, photo = scene(16, 20)
    found = dense_crf(probabilities, photo, parameters=config, engine=engine).numpy()
    exact = brute_force(probabilities, photo, config, exact_kernel)
    assert np.abs(found - exact).mean() < 6e-3 / 10
    assert np.abs(found - exact).max() < 2e-2
    assert (found.argmax(0) == exact.argmax(0)).all()
    assert (found.argmax(0) != probabilities.argmax(0)).mean() > 0.1, "the CRF has nothing to do here"


def test_equals_the_peer(engine: Engine) -> None:
    peer = pytest.importorskip("pydensecrf.densecrf")
    probabilities, photo = scene(40, 50, classes=21)
    crf = peer.DenseCRF2D(50, 40, 21)
    crf.setUnaryEnergy(np.ascontiguousarray(-np.log(probabilities.clip(1e-5, 1)).reshape(21, -1)))
    crf.addPairwiseGaussian(sxy=3, compat=3)
    crf.addPairwiseBilateral(sxy=30, srgb=13, rgbim=photo, compat=4)
    expected = np.array(crf.inference(10)).reshape(probabilities.shape)
    found = dense_crf(probabilities, photo, parameters=SMOOTH, engine=engine).numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=6e-3)
    assert (found.argmax(0) == expected.argmax(0)).mean() >= 0.9999


@pytest.mark.parametrize("config", [V2_RESNET101, SMOOTH], ids=["v2", "smooth"])
def test_as_near_to_exact_gaussians_as_the_peer(engine: Engine, config: CRFConfig) -> None:
    """Both differ from the true CRF by what the lattice does, and far less from each other."""
    peer = pytest.importorskip("pydensecrf.densecrf")
    probabilities, photo = scene(40, 50, classes=21)
    crf = peer.DenseCRF2D(50, 40, 21)
    crf.setUnaryEnergy(np.ascontiguousarray(-np.log(probabilities.clip(1e-5, 1)).reshape(21, -1)))
    crf.addPairwiseGaussian(sxy=config.sigma_gamma, compat=config.w2)
    crf.addPairwiseBilateral(sxy=config.sigma_alpha, srgb=config.sigma_beta, rgbim=photo, compat=config.w1)
    theirs = np.array(crf.inference(10)).reshape(probabilities.shape)
    ours = dense_crf(probabilities, photo, parameters=config, engine=engine).numpy()
    exact = brute_force(probabilities, photo, config, exact_kernel)
    assert np.abs(ours - exact).mean() <= 1.01 * np.abs(theirs - exact).mean()
    assert np.abs(ours - exact).max() <= 1.05 * np.abs(theirs - exact).max()


@pytest.mark.parametrize(("classes", "channels"), [(1, 1), (2, 3), (8, 4), (21, 3), (37, 2), (150, 6)])
def test_engines_agree(classes: int, channels: int) -> None:
    if compiled.KERNEL.why_not:
        pytest.skip(compiled.KERNEL.why_not)
    generator = torch.Generator().manual_seed(classes)
    probabilities = (3 * torch.randn(classes, 12, 15, generator=generator)).softmax(0)
    photo = 255 * torch.rand(12, 15, channels, generator=generator)
    found = [dense_crf(probabilities, photo, parameters=SMOOTH, engine=engine) for engine in ENGINES]
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-3)


def test_one_step_by_hand(engine: Engine) -> None:
    """Kernels so wide that they are constant (K = 1/2 for two pixels), or so narrow that K is the identity."""
    probabilities = torch.tensor([[[0.9, 0.4]], [[0.1, 0.6]]])
    photo = np.zeros((1, 2, 3), np.uint8)
    wide = dense_crf(
        probabilities, photo, parameters=CRFConfig(w1=0, w2=2, sigma_gamma=1e6), iterations=1, engine=engine
    )
    # message 2 * mean over pixels = (1.3, 0.7): the odds of class 0 grow by exp(0.6)
    odds = torch.tensor([9.0, 2 / 3]) * np.exp(0.6)
    torch.testing.assert_close(wide[0, 0], odds / (1 + odds), rtol=1e-5, atol=1e-6)
    narrow = dense_crf(
        probabilities, photo, parameters=CRFConfig(w1=0, w2=2, sigma_gamma=1e-2), iterations=1, engine=engine
    )
    odds = torch.tensor([9.0, 2 / 3]) * torch.tensor([1.6, -0.4]).exp()
    torch.testing.assert_close(narrow[0, 0], odds / (1 + odds), rtol=1e-5, atol=1e-6)


def test_no_iterations_or_no_terms_give_the_probabilities(engine: Engine) -> None:
    probabilities, photo = scene(5, 6)
    for found in (
        dense_crf(probabilities, photo, iterations=0, engine=engine),
        dense_crf(probabilities, photo, parameters=CRFConfig(w1=0, w2=0), engine=engine),
        dense_crf_from_energies(7 - np.log(probabilities), photo, iterations=0, engine=engine),
    ):
        np.testing.assert_allclose(found.numpy(), probabilities, rtol=1e-4, atol=2e-5)


def test_a_batch_is_its_photos(engine: Engine) -> None:
    scenes = [scene(9, 11, seed=seed) for seed in (1, 2)]
    probabilities, photos = (np.stack(each) for each in zip(*scenes, strict=True))
    found = dense_crf(probabilities, photos, engine=engine)
    assert found.shape == (2, 4, 9, 11)
    for each, pair in zip(found, scenes, strict=True):
        assert torch.equal(each, dense_crf(*pair, engine=engine))


def test_threads_do_not_change_the_result(engine: Engine) -> None:
    probabilities, photo = scene(90, 110, classes=5)
    threads = torch.get_num_threads()
    found = []
    try:
        for count in (1, 4):
            torch.set_num_threads(count)
            found.append(dense_crf(probabilities, photo, iterations=2, engine=engine))
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0 if engine == "compiled" else 1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"probabilities": np.full((4, 5, 6), 2.0)}, r"2 to 2; allowed is 0 to 1; fix: softmax"),
        ({"probabilities": np.full((4, 5, 6), np.nan)}, "probabilities holds values that are not finite"),
        ({"image": np.zeros((5, 7, 3), np.uint8)}, r"\[4, 5, 6\] and the image is \[5, 7, 3\].*fix: resize"),
        ({"image": np.zeros((5, 6), np.uint8)}, r"allowed are \[C, H, W\] with \[H, W, K\]"),
        ({"image": np.zeros((5, 6, 0), np.uint8)}, "no side may be 0"),
        ({"image": np.zeros((5, 6, 63), np.uint8)}, "63 channels; allowed are 1 to 62"),
        ({"iterations": -1}, "iterations is -1"),
        ({"engine": "fast"}, "engine is 'fast'; allowed are auto, compiled, torch"),
    ],
)
def test_mistakes_are_explained(change: dict[str, object], message: str) -> None:
    arguments = {"probabilities": np.full((4, 5, 6), 0.25), "image": np.zeros((5, 6, 3), np.uint8)} | change
    with pytest.raises(UserError, match=message):
        dense_crf(**arguments)


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No compiler, and nothing remembered of one."""
    monkeypatch.setenv("CXX", str(tmp_path / "absent"))
    monkeypatch.setattr(compiled, "KERNEL", replace(compiled.KERNEL))
    monkeypatch.setattr(build, "_told", [])
    monkeypatch.delenv("DEEPLAB_CRF_ENGINE", raising=False)


@pytest.mark.usefixtures("fresh")
def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    probabilities, photo = scene(5, 6)
    with pytest.warns(RuntimeWarning, match="no C.. compiler found"):
        assert chosen_engine() == "torch"
    assert dense_crf(probabilities, photo).shape == (4, 5, 6)
    monkeypatch.setenv("DEEPLAB_CRF_ENGINE", "compiled")
    with pytest.raises(UserError, match=r"DEEPLAB_CRF_ENGINE is 'compiled', but no C.. compiler found"):
        dense_crf(probabilities, photo)


@pytest.mark.usefixtures("fresh")
def test_plain_kernels_are_meant_for_the_crf_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPLAB_KERNELS", "plain")
    assert chosen_engine() == "torch"
    with pytest.raises(UserError, match="engine is 'compiled', but DEEPLAB_KERNELS is 'plain'"):
        chosen_engine("compiled")


def test_the_environment_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPLAB_CRF_ENGINE", "torch")
    assert chosen_engine() == "torch"
    monkeypatch.setenv("DEEPLAB_CRF_ENGINE", "numba")
    with pytest.raises(UserError, match="DEEPLAB_CRF_ENGINE is 'numba'"):
        chosen_engine()
