"""OpenAI's state_dict of CLIP, spelled out after openai/CLIP's clip/model.py, of parameters of ours."""

import numpy as np


def openai_names(variables, tower):
    """OpenAI's state_dict of our variables (clip/model.py), by its names spelled out."""
    params, state = variables["params"], {}
    text, image = params["text"], params["image"]

    def linear(name, layer):
        state[f"{name}.weight"], state[f"{name}.bias"] = layer["kernel"].T, layer["bias"]

    def norm(name, layer):
        state[f"{name}.weight"], state[f"{name}.bias"] = layer["scale"], layer["bias"]

    def blocks(name, tower):
        for i in range(2):
            block, where = tower[f"blocks_{i}"], f"{name}.resblocks.{i}"
            norm(f"{where}.ln_1", block["norm1"])
            norm(f"{where}.ln_2", block["norm2"])
            parts = [block["attn"][part] for part in ("query", "key", "value")]
            state[f"{where}.attn.in_proj_weight"] = np.vstack([part["kernel"].T for part in parts])
            state[f"{where}.attn.in_proj_bias"] = np.hstack([part["bias"] for part in parts])
            linear(f"{where}.attn.out_proj", block["attn"]["out"])
            linear(f"{where}.mlp.c_fc", block["mlp"]["fc1"])
            linear(f"{where}.mlp.c_proj", block["mlp"]["fc2"])

    state["token_embedding.weight"], state["positional_embedding"] = text["token_embedding"], text["pos_embed"]
    blocks("transformer", text)
    norm("ln_final", text["norm"])
    state["text_projection"] = params["text_projection"]["kernel"]
    state["logit_scale"] = params["logit_scale"]
    if tower == "ViT":
        state["visual.class_embedding"] = image["cls_token"][0, 0]
        state["visual.positional_embedding"] = image["pos_embed"][0]
        state["visual.conv1.weight"] = image["patch_embed"]["kernel"].transpose(3, 2, 0, 1)
        norm("visual.ln_pre", image["norm_pre"])
        blocks("visual.transformer", image)
        norm("visual.ln_post", image["norm"])
        state["visual.proj"] = params["image_projection"]["kernel"]
        return state

    statistics = variables["batch_stats"]["image"]

    def conv_norm(conv, bn, name, layers, moments):
        state[f"{conv}.weight"] = layers[f"conv{name}"]["kernel"].transpose(3, 2, 0, 1)
        norm(bn, layers[f"bn{name}"])
        moments = moments[f"bn{name}"]
        state[f"{bn}.running_mean"], state[f"{bn}.running_var"] = moments["mean"], moments["var"]
        state[f"{bn}.num_batches_tracked"] = np.int64(7)

    for i in "123":
        conv_norm(f"visual.conv{i}", f"visual.bn{i}", i, image, statistics)
    for stage, units in enumerate((2, 1, 1, 1)):
        for unit in range(units):
            where = f"visual.layer{stage + 1}.{unit}"
            layers = image[f"stages_{stage}"][f"units_{unit}"]
            moments = statistics[f"stages_{stage}"][f"units_{unit}"]
            for i in "123":
                conv_norm(f"{where}.conv{i}", f"{where}.bn{i}", i, layers, moments)
            if unit == 0:
                conv_norm(f"{where}.downsample.0", f"{where}.downsample.1", "_proj", layers, moments)
    pool = image["attn_pool"]
    state["visual.attnpool.positional_embedding"] = pool["pos_embed"]
    linear("visual.attnpool.q_proj", pool["query"])
    linear("visual.attnpool.k_proj", pool["key"])
    linear("visual.attnpool.v_proj", pool["value"])
    linear("visual.attnpool.c_proj", params["image_projection"])
    return state
