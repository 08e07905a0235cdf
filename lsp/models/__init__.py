"""What is learned: world model, policy, value, skill predictor, and imagining with them."""
