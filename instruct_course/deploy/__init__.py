"""A tuned model leaves the house: merged, exported, served."""
