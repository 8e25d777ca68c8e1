"""A page that runs converted models in a browser: drop a picture, see prediction and map, move the target, compare methods."""
