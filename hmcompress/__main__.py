"""`python -m hmcompress`."""

from hmcompress.cli import main

main()
