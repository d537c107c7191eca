"""The ground that everything stands on: errors, binding of recipes, whole files, random numbers, processes."""
