"""Every bound of announcing, each with the reason for its value. Times in seconds."""

from __future__ import annotations

from kachery_p2p.units import HOUR

#: Every key is announced so often; go-libp2p keeps provider records for 48 h and Kubo announces every 22 h.
INTERVAL = 22 * HOUR
#: Lookups of one target under way at a time: each has up to ten questions open.
LOOKUPS = 8
#: Deliveries of one target under way at a time: each is a connection, most of them new.
DELIVERIES = 16
#: Keys in one delivery: about 200 KB with ten addresses, written within the time below on a slow line.
KEYS_PER_DELIVERY = 1000
#: A peer that does not take a delivery in this time is not reading.
DELIVERY_TIMEOUT = 30.0
#: Regions that are late, or new, worked on at the same time: catching up after a week must not be felt.
REGIONS_AT_ONCE = 3
#: Batches of new keys under way at a time; the next ones gather meanwhile into one.
URGENT_BATCHES = 4
#: Keys announced that wait in memory for their first try; beyond, they wait in the database for the turn of the region.
MAX_URGENT = 20_000
#: Copies below which an announcement counts as weak and is soon tried again, where there were more peers to be had.
ENOUGH_COPIES = 5
#: Lookups that fail in a row before a region is given up for now: we are offline.
FAILURES_IN_A_ROW = 4
#: Pause before what failed is tried again: first, and at the most; it doubles.
RETRY_FIRST, RETRY_LAST = 10.0, 1800.0
#: The same when a target has no peers at all.
LOST_FIRST, LOST_LAST = 1.0, 60.0
#: The list of keys is compared with what is announced so often: finds what was removed, or added while we were away.
SYNC_EVERY = 600.0
#: The regions are read from the database so often at the most: that goes through all keys, 100 ms for 300 000.
PLAN_EVERY = 5.0
#: Rows of one transaction: some ten milliseconds, so that nobody waits long for the database.
ROWS = 2000
#: Keys above which computing is left to a thread.
IN_THREAD = 500
#: Network size is measured by so many lookups before many keys are announced for the first time.
MEASURE_LOOKUPS = 4
#: Fewer keys than this are announced without measuring.
MEASURE_FROM = 64
#: Peers of the LAN are counted so often: newcomers learn of our keys within seconds.
LOOK_EVERY = 5.0
#: Peers of a LAN up to which newcomers are given our keys at once; in greater ones they get them by the sweep.
MAX_GREETED = 200
#: Times a newcomer is tried; it is tried again when it next appears.
GREET_TRIES = 4
#: When peers were last up to date is written down so often.
SAVE_EVERY = 60.0
#: Peers of the LAN remembered, longest absent forgotten first: the laptop of somebody who visits many labs.
MAX_REMEMBERED_PEERS = 2000
#: After an error of the database: the disk may have room again.
ERROR_PAUSE = 60.0
