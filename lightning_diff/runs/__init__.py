"""A run folder's life: recipe, lock, start or resume, training, what is kept, comparison, repair. No mathematics."""
