"""``python -m pwconv``."""

from pwconv.cli import main

main()
