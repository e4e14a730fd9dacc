"""TensorFlow Lite files, read as a graph and walked as data flows."""
