"""From a point of the unit cube to a merge recipe."""
