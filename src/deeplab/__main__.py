"""`python -m deeplab`."""

from deeplab.cli.app import main

main()
