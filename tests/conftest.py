"""For all tests."""

import signal

# A shell that starts the tests in the background has them ignore Ctrl-C, and all they start would
# too: also those processes that are to be interrupted.
signal.signal(signal.SIGINT, signal.default_int_handler)
