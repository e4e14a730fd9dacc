"""Convolutions out of ONNX files, without the onnx package."""
