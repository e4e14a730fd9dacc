"""Kernels in C++, each beside the plain code that it equals; nothing here is needed for a result."""
