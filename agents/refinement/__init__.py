"""Refinement: experiences filtered and corrected."""
