"""Ways to do a training step: each function builds one and returns it.

The first call of what is returned gives the loss and the gradients before any update, float64 [numbers] in the order
of our parameters; what is timed are the calls after it, which give the loss alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Step = Callable[[], np.ndarray]
LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 1e-4, 0.9, 4e-5
IGNORED = 255
# of the gradients: every so-many-th number is compared
KEPT = 100_000


def peer(*, folder: str, case: dict[str, Any], precision: str) -> Step:
    """The peer's network in eager PyTorch, `cross_entropy` of its full-size logits, SGD.

    In bfloat16 it runs under autocast; in float64 as a whole, to judge others by.
    """
    import torch
    from torch.nn.functional import cross_entropy

    from harness.peer_networks import build, logits_of

    model = build(case["network"], case["classes"])
    model.load_state_dict(torch.load(Path(folder) / "peer.pth", weights_only=True))
    _without_dropout(model.train())
    logits = logits_of(case["network"], model)
    images, labels = _batch(folder)
    about = json.loads((Path(folder) / "about.json").read_text())
    mean, std = (torch.tensor(about[name]).view(-1, 1, 1) for name in ("mean", "std"))
    lower = precision == "bfloat16"
    exact = torch.float64 if precision == "float64" else torch.float32
    model.to(exact)

    def loss() -> Any:
        with torch.autocast("cpu", torch.bfloat16, enabled=lower):
            found = logits((images.to(exact) - mean) / std)
        return cross_entropy(found.to(exact), labels.long(), ignore_index=IGNORED)

    return _steps(model, loss, lambda: _as_ours(model, folder))


def ours(*, folder: str, case: dict[str, Any], precision: str) -> Step:
    """What `deeplab train` does for a step: `batch_loss` of photos that lie channels last, and its memory setting."""
    import torch

    from deeplab.model.network import DeepLab
    from deeplab.system.memory import keep_freed_memory
    from deeplab.train.loop import batch_loss

    keep_freed_memory()
    model = DeepLab.from_pretrained(Path(folder) / "ours").to(memory_format=torch.channels_last).train()
    _without_dropout(model)
    images, labels = _batch(folder)
    images = images.contiguous(memory_format=torch.channels_last)
    dtype = getattr(torch, precision)

    def loss() -> Any:
        return batch_loss(model, images, labels, precision=dtype)

    return _steps(
        model,
        loss,
        lambda: {name: value.grad for name, value in model.named_parameters() if value.grad is not None},
    )


def _steps(model: Any, loss: Callable[[], Any], gradients: Callable[[], dict[str, Any]]) -> Step:
    import torch

    optimiser = torch.optim.SGD(
        model.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY
    )
    first = True

    def step() -> np.ndarray:
        nonlocal first
        optimiser.zero_grad(set_to_none=True)
        value = loss()
        value.backward()
        result = np.array([value.item()])
        if first:
            first = False
            result = np.concatenate([result, _flattened(gradients())])
        optimiser.step()
        return result

    return step


def _flattened(gradients: dict[str, Any]) -> np.ndarray:
    """About KEPT numbers, in the order of names, each layer's divided by the largest of the layer."""
    count = sum(value.numel() for value in gradients.values())
    every = max(1, count // KEPT)
    parts = []
    for _, value in sorted(gradients.items()):
        flat = value.contiguous().flatten()
        parts.append((flat / flat.abs().max().clamp(min=1e-12))[::every].numpy())
    return np.concatenate(parts)


def _as_ours(model: Any, folder: str) -> dict[str, Any]:
    """The peer's gradients by our names: imported as if they were weights."""
    import torch

    from deeplab.importers import import_weights

    state = dict(model.state_dict())
    for name, value in model.named_parameters():
        state[name] = (value.grad if value.grad is not None else torch.zeros_like(value)).float()
    path = Path(folder) / "gradients.pth"
    torch.save(state, path)
    imported = import_weights(path).model
    return {name: value.data for name, value in imported.named_parameters()}


def _without_dropout(model: Any) -> None:
    """Its choices would differ."""
    import torch

    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0


def _batch(folder: str) -> tuple[Any, Any]:
    """uint8 [N, 3, H, W] and uint8 [N, H, W]: rectangles of classes, and a border that is ignored."""
    import torch

    photos = torch.from_numpy(np.load(Path(folder) / "photos.npy")).permute(0, 3, 1, 2).contiguous()
    generator = torch.Generator().manual_seed(0)
    count, _, height, width = photos.shape
    coarse = torch.randint(0, 21, (count, 1, 16, 16), generator=generator, dtype=torch.uint8)
    labels = torch.nn.functional.interpolate(coarse, (height, width))[:, 0].clone()
    labels[:, :20] = IGNORED
    return photos, labels
