"""What an evaluation leaves: all measures in one, JSON, pictures, and a page to look at."""
