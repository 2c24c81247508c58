"""Models with flexible heads: adding, running, saving and exporting them."""
