"""What the command line and `import lsp` offer: training, and what is done with a run."""

from lsp.api.evaluating import check_trust, environments_of, evaluate, load, load_networks
from lsp.api.exporting import export
from lsp.api.training import check, train, transfer

__all__ = [
    "check",
    "check_trust",
    "environments_of",
    "evaluate",
    "export",
    "load",
    "load_networks",
    "train",
    "transfer",
]
