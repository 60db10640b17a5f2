"""How fast the engine trains, beside TRL and beside the matrix products that a step cannot do without. See README.md."""
