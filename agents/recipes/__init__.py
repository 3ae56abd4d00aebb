"""One module per system of the catalogue."""
