"""A base model: what is inside, how it is fetched, loaded, quantised and adapted."""
