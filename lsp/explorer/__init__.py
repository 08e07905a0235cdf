"""The skill explorer: steer a trained agent's skills; what it imagines beside what comes."""
