def shared_groups(groups, parts):
    """Return the groups that are in more than one part."""
    seen, shared = set(), set()
    for part in parts:
        here = {groups[i] for i in part}
        shared |= here & seen
        seen |= here
    return shared


# Of the four splits, number 2 leaks: patients 4 and 7 are on both sides. Splits 1 and 3 have
# unusual sizes, but a size is not a leak.
