"""Data sets and what happens to a sample between the disk and the model."""
