"""The report of runs, one HTML page: what run folders hold, with plots to look into; nothing is measured or trained here."""
