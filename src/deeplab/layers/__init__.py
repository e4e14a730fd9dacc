"""The operations every DeepLab is made of, one idea a file."""
