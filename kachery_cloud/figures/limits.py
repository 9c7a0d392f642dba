"""Every bound of figures, each with its reason. Sizes in bytes.

Those that the viewer holds, too, are in `web/figure/viewer/limits.js` by the same names; a test compares them.
"""

from __future__ import annotations

from kachery_p2p.units import MIB

#: Of `figure.json`: a browser reads it at once, and values by the million belong into arrays.
MAX_DOCUMENT = 16 * MIB
#: Of all that one figure draws: it lies in the memory of a browser, some of it several times.
MAX_DATA = 256 * MIB
#: Rows of one table: Vega makes an object of each, of some 100 bytes and more.
MAX_ROWS = 1_000_000
#: Arrays and tables: each is a request.
MAX_ENTRIES = 1_000
#: Values within each other in a specification; none that somebody wrote has more than some twenty. What reads JSON of
#: strangers takes 64, and the specification lies in the document.
MAX_DEPTH = 50
#: Dimensions of an array: nothing draws more, and the viewer makes lists within lists of them.
MAX_DIMENSIONS = 4
#: Characters of the title.
MAX_TITLE = 500
