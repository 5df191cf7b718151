"""Reports on runs: figures, and the HTML pages with them."""
