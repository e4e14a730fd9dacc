"""The network of a config, its weights in a file, and its cost."""
