"""The reference's golden vectors, one module a family: each judges a file and returns its row."""
