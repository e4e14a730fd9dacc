"""The `deeplab` command: one module a subcommand, imported when it is called."""
