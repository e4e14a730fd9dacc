"""What the package needs of the machine that it runs on."""
