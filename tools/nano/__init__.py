"""How the embedded base model and the built-in instruction set are made: world -> tasks -> corpus -> pretrain."""
