"""DICOM files: which frames, which pixels, and a record of how they were made. Only this room and reports use pydicom.

pydicom can download its own test files, with requests if that is installed; and requests, when it is imported, opens a
socket to see whether there is IPv6. So pydicom is imported without it: nothing here asks the network.
"""

import sys
from contextlib import suppress

if "requests" not in sys.modules:
    sys.modules["requests"] = None  # type: ignore[assignment]  # the documented way to say "not to be imported"
    try:
        with suppress(ImportError):  # whoever needs pydicom says what to install
            import pydicom as pydicom
    finally:
        del sys.modules["requests"]
