"""What is learnt beyond the next token: contrastive, reward-model and preference losses."""
