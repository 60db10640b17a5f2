"""How good the answers are: metrics, verifiable instructions, a judge, a report."""
