"""`python -m sprinter`."""

from sprinter.cli.main import main

main()
