"""The tests. What they start finds them by PYTHONPATH: neither Ray's workers nor our own children look into the folder
that a command is run in."""

import os

from tests.helpers.paths import ROOT

os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
