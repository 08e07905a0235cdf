"""`python -m lsp` is the command `lsp`."""

from lsp.cli.main import main

main()
