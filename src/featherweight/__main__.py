"""`python -m featherweight` is the command `featherweight`."""

from featherweight.cli import main

main()
