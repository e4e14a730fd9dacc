"""Models that leave Python, each compared with float64 PyTorch from its file before it is called finished."""
