from __future__ import annotations

import signal

# A shell starts what runs in the background with Ctrl-C ignored, and every program started from
# here would inherit that: the tests send the signal themselves.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
