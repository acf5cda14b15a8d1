"""Programs that tests run against the Hub of `hub_double.py`: a process each, cut off from every other host."""

import inspect
import os
import subprocess
from pathlib import Path

from hub_double import TOKEN, HubDouble
from outside import host_of
from warm_python import WarmProcess

ROOT = Path(__file__).parents[1]
# Large files travel by Xet where hf-xet is installed, as a user's do; these make them travel by LFS instead.
BY_LFS = {"HF_HUB_DISABLE_XET": "1"}
READABLE_CHUNKS = {"HF_XET_XORB_COMPRESSION_POLICY": "none"}
# Loaded by each program at its start: whoever looks beyond loopback is written down and refused. `datasets` derives
# the address of its viewer from HF_ENDPOINT, which gives a name that is nobody's: refused only.
GUARD = f"""
import os, sys
{inspect.getsource(host_of)}
def guard(event, arguments):
    host = host_of(event, arguments)
    if host not in (None, "127.0.0.1", "::1", "localhost", b"127.0.0.1"):
        if host != "datasets-server.127.0.0.1":
            with open(os.environ["OUTSIDE"], "a") as file:
                file.write(f"{{host}}\\n")
        raise ConnectionRefusedError(f"{{host}} is outside")
sys.addaudithook(guard)
"""
PULL = """
import sys, torch
from PIL import Image
import transformers
if sys.argv[1] == "package":
    import modeling_amns
options = {} if sys.argv[1] == "package" else {"trust_remote_code": True}
if len(sys.argv) > 3:
    options["revision"] = sys.argv[3]
model = transformers.AutoModel.from_pretrained("org/name", **options).eval()
processor = transformers.AutoProcessor.from_pretrained("org/name", **options)
print(type(model).__module__.split(".")[0])
image = Image.new("RGB", (40, 90), "red")
inputs = processor(text=["a man in a red coat"], images=[image], return_tensors="pt")
with torch.no_grad():
    outputs = model(**inputs)
torch.save([outputs.image_embeds, outputs.text_embeds], sys.argv[2])
"""
# In front of PULL: a process that finds neither the package nor what only the package asks for.
BARE = """
import sys
class Bare:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        hidden = ("modeling_amns", "datasets", "evaluate", "accelerate", "peft", "sentence_transformers")
        return None if path is None and name in hidden else self.finder.find_spec(name, path, target)
    def __getattr__(self, name):
        return getattr(self.finder, name)
sys.meta_path[:] = [Bare(finder) for finder in sys.meta_path]
try:
    import modeling_amns
except ModuleNotFoundError:
    pass
else:
    sys.exit("the package is here")
"""


def start(
    hub: HubDouble, home: Path, program: str | Path, *arguments, token: str | None = TOKEN, **environment: str
) -> WarmProcess:
    """A Python program (text), or a script of the package (path), with this Hub and an empty cache at `home`."""
    guard = home / "guard"
    guard.mkdir(exist_ok=True)
    (guard / "sitecustomize.py").write_text(GUARD)
    left_out = ("HF_", "HUGGING", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
    variables = {name: value for name, value in os.environ.items() if not name.upper().startswith(left_out)}
    variables |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "OMP_NUM_THREADS": "1", **READABLE_CHUNKS}
    # datasets and evaluate count downloads at a host of their own unless told not to.
    variables |= {"HF_UPDATE_DOWNLOAD_COUNTS": "0", "HF_HUB_DISABLE_TELEMETRY": "1", "OUTSIDE": str(home / "outside")}
    variables |= {"PYTHONPATH": os.pathsep.join(map(str, (guard, ROOT, ROOT / "tests"))), **environment}
    if token:
        variables["HF_TOKEN"] = token
    command = [program] if isinstance(program, Path) else ["-c", program]
    return WarmProcess([*command, *arguments], variables, home)


def run(hub: HubDouble, home: Path, program: str | Path, *arguments, **options) -> subprocess.CompletedProcess:
    """`start`, and wait; nothing may have looked beyond loopback."""
    process = start(hub, home, program, *arguments, **options)
    try:
        out, err = process.communicate(timeout=300)
    finally:
        process.kill()
    outside = home / "outside"
    assert not outside.exists(), f"asked for {outside.read_text()}"
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)
