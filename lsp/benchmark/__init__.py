"""`lsp bench`: how fast updates and acting are."""
