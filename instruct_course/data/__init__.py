"""From a file to examples, and from an example to token ids and labels."""
