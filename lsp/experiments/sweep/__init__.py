"""Many runs, on local processes or a Ray cluster."""
