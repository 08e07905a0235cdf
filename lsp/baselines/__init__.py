"""Baselines that are no setting of LSP: they share its loop, replay, logs and evaluation."""
