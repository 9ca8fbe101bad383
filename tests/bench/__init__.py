"""What corepipe costs: stop times, the target's throughput, the stream. tests/bench/run makes the tables."""
