"""What the documentation shows of real sessions: one on a terminal (`terminal`), and a notebook (`notebook`).

Both pages hold what is typed, and what was shown when it was. `python -m scripts.tour` plays them again and writes
them anew; `tests/e2e/test_tour.py` plays them and compares. What differs from run to run is shown as something fixed
(`names`).
"""
