# Judged on other images (c), by another rule for the border (e), at another size (h). All others
# differ in how they learned, which is what a comparison is for.
unfair_runs = {"c", "e", "h"}
