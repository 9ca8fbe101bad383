"""corepipe's terminal user interface. It knows the engine through its public names and its event stream alone."""
