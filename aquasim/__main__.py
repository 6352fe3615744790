"""`python -m aquasim`."""

from aquasim.cli.app import main

main()
