"""What a training needs before it starts, and rehearsals that check the plan."""
