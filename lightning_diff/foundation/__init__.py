"""The ground: errors, binding of recipes, whole files, random numbers, processes, old names. It imports nothing of ours."""
