"""Names of requests: 32 hexadecimal digits, also the id of the trace that begins with one.

The first eleven are the time, so that the database's rows of a moment lie side by side: with names
at random each row is a page of its own to be written, in every index. The other 21 are random, 84
bits, and those at the end above all, where W3C's Trace Context wants them.
"""

import os
import time

TIME_DIGITS = 11


def new_id() -> str:
    """One that nobody had."""
    milliseconds = time.time_ns() // 1_000_000
    return f"{milliseconds:011x}{os.urandom(11).hex()[1:]}"
