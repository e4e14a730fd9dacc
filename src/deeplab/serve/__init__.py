"""Photos over HTTP: an API, and a page to play with (extra `serve`)."""
