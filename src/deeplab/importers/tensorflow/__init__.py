"""TensorFlow's checkpoints and frozen graphs, without TensorFlow."""
