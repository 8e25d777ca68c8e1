"""Contact sheets: a row for each picture, a column for each method or target; as pages (PNG, SVG) and as one HTML page."""
