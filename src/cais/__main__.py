"""``python -m cais`` is the `cais` program."""

from cais.cli.main import main

main()
