"""What several test files use: data sets and weights made up, runs of commands, and comparisons."""
