"""From batches to a trained adapter: loss, batches, engine, loop, checkpoints, loggers."""
