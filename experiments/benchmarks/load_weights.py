"""Seconds and memory that loading a checkpoint takes, beside transformers' own `from_pretrained` where that is installed.

    python experiments/benchmarks/load_weights.py                                  # ViT-L/16, 304 M parameters, drawn anew
    python experiments/benchmarks/load_weights.py --model=vit_b16 --rounds=3
    python experiments/benchmarks/load_weights.py --folder=FOLDER                  # any ViT of transformers

Every load has a process of its own and the two take turns; the file is in the page cache. Memory is the peak of the
process (Linux) above what it had before loading, as a multiple of the parameters' size in float32; the seconds begin
there, too, and end when every parameter has been read once, since transformers only maps the file until then.
"""

import argparse
import importlib.util
import json
import math
import pathlib
import statistics
import subprocess
import sys
import tempfile

LOADERS = {
    "vision_jax": """
import jax, numpy as np, vision_jax as vj
jax.local_devices(), vj.load_pretrained, vj.create_model
def load(folder):
    _, variables = vj.load_pretrained(folder)
    return variables, sum(float(np.asarray(leaf).sum()) for leaf in jax.tree.leaves(variables))
""",
    "transformers": """
import torch
from transformers import ViTForImageClassification
def load(folder):
    model = ViTForImageClassification.from_pretrained(folder)
    return model, sum(float(values.detach().numpy().sum()) for values in model.parameters())
""",
}
MEASURE = """
import json, re, sys, time
def peak():
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
before, start = peak(), time.perf_counter()
loaded = load(sys.argv[1])
print(json.dumps({"seconds": time.perf_counter() - start, "bytes": peak() - before}))
"""


def make_folder(name: str, folder: pathlib.Path) -> None:
    """A folder of transformers with that model, its parameters drawn at random."""
    import jax
    import numpy as np

    import vision_jax as vj
    from vision_jax.models.inference import variable_shapes

    model, rng = vj.create_model(name), np.random.default_rng(0)
    shapes = variable_shapes(model, (224, 224))
    variables = jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape, np.float32), shapes)
    vj.save_pretrained(folder, model, variables, "hf", image_size=224)


def parameter_bytes(folder: pathlib.Path) -> int:
    """Of the parameters in float32."""
    from vision_jax.weights.readers import open_tensors

    shapes = [tensor.shape for tensor in open_tensors(folder).values()]
    return 4 * sum(math.prod(shape) for shape in shapes)


def measure(loader: str, folder: pathlib.Path) -> dict[str, float]:
    code = LOADERS[loader] + MEASURE
    done = subprocess.run([sys.executable, "-c", code, str(folder)], check=True, capture_output=True, text=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="vit_l16", help="a ViT to draw and save (default: vit_l16)")
    parser.add_argument("--folder", default="", help="a ViTForImageClassification to load instead")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(args.folder or temporary)
        if not args.folder:
            make_folder(args.model, folder)
        size = parameter_bytes(folder)
        loaders = ["vision_jax", *(["transformers"] if importlib.util.find_spec("transformers") else [])]
        rounds = [{loader: measure(loader, folder) for loader in loaders} for _ in range(args.rounds)]
    print(f"{size / 2**20:,.0f} MiB of parameters; medians of {args.rounds} rounds")
    for loader in loaders:
        seconds = statistics.median(one[loader]["seconds"] for one in rounds)
        peak = max(one[loader]["bytes"] for one in rounds) / size
        print(f"{loader:14} {seconds:6.2f} s   peak {peak:.2f} times the parameters")
    if len(loaders) > 1:
        ratio = statistics.median(one["vision_jax"]["seconds"] / one["transformers"]["seconds"] for one in rounds)
        print(f"vision_jax takes {ratio:.2f} times as long as transformers")


if __name__ == "__main__":
    main()
