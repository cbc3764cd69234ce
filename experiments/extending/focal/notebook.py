"""The same from Python, cell by cell: in a notebook, or `python notebook.py`."""

# %% The classes themselves, or objects, in place of names: nothing need be importable elsewhere.
import numpy as np
from shapes_focal import Focal, Net, Polygons, Recall, get_config

import vision_jax as vj

parts = {"model": Net, "task": Focal, "train_data": Polygons("train"), "eval_data": Polygons("test")}
evaluators = {"recall": Recall}
run = vj.train(
    get_config(), overrides={"duration": "4 epochs", "log.tensorboard": False}, evaluators=evaluators, **parts
)

# %% What was reported, by metric: steps and values.
for name in ("recall/pentagon", "recall/mean"):
    print(name, *(f"{value:.3f}" for value in run.history[name].value))

# %% Longer, and exactly as if it had never stopped but for the schedule, which is told so.
run.resume({"duration": "8 epochs"}, accept=["duration"])
print(run.evaluate("best")["recall/mean"])

# %% What the model sees, as names, and as arrays.
picture = Polygons("test")[2]["image"]
print(run.class_names, run.predict(picture))
images = (picture[None] / 255.0 - 0.5) / 0.5
print(np.asarray(run.model.apply(run.variables, images)))

# %% Another network, an object this time, and another loss, in a folder of their own.
changes = {"loss.gamma": 0.0, "duration": "4 epochs", "log.tensorboard": False}
wide = vj.train(get_config(), overrides=changes, model=Net(num_classes=3, widths=(32, 64, 128)))
print(wide, wide.summary["recall/mean"])
