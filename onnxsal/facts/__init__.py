"""What is known of a graph, found once: from what every operator states of itself (``ops``), by one forward solver and one reach walk."""
