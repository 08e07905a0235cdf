"""`python -m lsp` is the command `lsp`."""

from lsp.cli import main

main()
