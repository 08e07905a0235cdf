"""The paper's figures: their runs, and how they are drawn."""
