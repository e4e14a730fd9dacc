"""Keras Applications' weights as backbones, without Keras."""
