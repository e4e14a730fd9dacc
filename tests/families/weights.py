"""The golden vectors' models: weights recomputed from the variables' names (their README, section 1)."""

from __future__ import annotations

import zlib

import numpy as np

from deeplab.importers.tensorflow.names import tensorflow_variables, to_torch_layout
from deeplab.model.network import DeepLab
from deeplab.presets.reference import config_from_options


def recipe_value(name: str, shape: tuple[int, ...], gain: float) -> np.ndarray:
    """The vectors' weights, recomputed from a variable's name and shape."""
    random = np.random.RandomState(zlib.crc32(name.encode("utf-8")))
    leaf = name.rsplit("/", 1)[-1]
    if leaf in ("weights", "pointwise_weights"):
        fan_in = int(np.prod(shape[:-1]))
        return random.standard_normal(shape).astype(np.float32) * np.float32(gain * np.sqrt(2.0 / fan_in))
    if leaf == "depthwise_weights":
        factor = np.float32(gain * np.sqrt(2.0 / (shape[0] * shape[1])))
        return random.standard_normal(shape).astype(np.float32) * factor
    if leaf in ("gamma", "moving_variance"):
        return random.uniform(0.8, 1.2, shape).astype(np.float32)
    return (0.1 * random.standard_normal(shape)).astype(np.float32)


def build(options: dict, variables: list) -> DeepLab:
    """The model of a case with the recipe's weights; its variables must be exactly the reference's."""
    model = DeepLab(config_from_options(options)).eval()
    ours = tensorflow_variables(model)
    expected = {name: tuple(shape) for name, shape in variables}
    found = {variable.name: variable.shape for variable in ours.values()}
    if expected != found:
        difference = sorted(set(expected.items()) ^ set(found.items()))[:6]
        raise AssertionError(f"variables differ from the reference's: {difference}")
    state = {
        key: to_torch_layout(recipe_value(name, shape, options["gain"]), name)
        for key, (name, shape) in ours.items()
    }
    counters = {key: value for key, value in model.state_dict().items() if key not in state}
    model.load_state_dict(state | counters)
    return model
