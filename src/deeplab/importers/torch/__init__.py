"""PyTorch's weights of seven libraries, told apart by names and shapes."""
