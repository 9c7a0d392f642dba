"""Values as bytes: text, JSON, NumPy arrays, pickles, each the same under every version of Python and numpy."""
