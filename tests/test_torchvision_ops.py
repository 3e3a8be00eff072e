import subprocess
import sys


def test_timm_imports_whatever_torchvision_was_built_for():
    code = (
        "from spahgc.torchvision_ops import declare_missing_operators as declare\n"
        "declare()\n"
        "assert declare() == ()\n"
        "import timm, torchvision.transforms\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
