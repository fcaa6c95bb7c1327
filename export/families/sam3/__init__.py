"""SAM 3: the family, the part of it that stays in the graph, its loss, and its tracker as a segmenter of boxes."""
