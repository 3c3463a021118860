"""Where a simulated node keeps its device nodes, and whether its driver answers. Filled in when the sources are packed."""

import os

DEV = "@DEV@"
STATE = "@STATE@"
BOOT_ID = "@PROC@/sys/kernel/random/boot_id"


def _read(path):
    try:
        with open(path) as stream:
            return stream.read().strip()
    except OSError:
        return ""


def reason():
    """Why there is no device, or an empty string."""
    if not os.access(os.path.join(DEV, "davinci_manager"), os.R_OK):
        return "%s/davinci_manager cannot be opened" % DEV
    owed = _read(os.path.join(STATE, "reboot-owed.driver"))
    return "the driver waits for a reboot" if owed and owed == _read(BOOT_ID) else ""


def count():
    if reason():
        return 0
    return len([name for name in os.listdir(DEV) if name.startswith("davinci") and name[7:].isdigit() and os.access(os.path.join(DEV, name), os.R_OK)])
