"""The paper: Algorithm 1 in `learner`, Algorithm 2 in `cem`, acting in `agent`."""
