def choose_average(claim):
    """Return the reduction that the claim "A", "B", "C" or "D" needs."""
    return {
        "A": "micro",  # hectares add up over all tiles and classes
        "B": "macro",  # classes have equal weight, each evaluated over the data set
        "C": "micro-imagewise",  # photographs have equal weight, whatever is in them
        "D": "macro-imagewise",  # patients have equal weight, and in each patient the organs
    }[claim]
