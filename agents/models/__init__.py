"""Language models: embedded, served or scripted, behind langchain-core chat models."""
