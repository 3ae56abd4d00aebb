"""What is kept between episodes: records, their ledger, their index. Knows nothing of agents."""
