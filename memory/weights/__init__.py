"""From external memory into weights: data sets, training, adapters, and the proof that an adapter is served."""
