"""Who acts: models, episodes, the evolution loop and the recipes that compose it."""
