"""The YAML files of the published code, with what is odd in them."""

# All keys of the published files, in their order, and what is odd in them.
TEMPLATE = """\
NAME: '{name}'

MODEL:
    input_nc: 1
    output_nc: 2
    num_classes: 2
    input_channels: 1
    level: 4

TRAIN:
    resume: False
    model_name: ''
    if_valid: True
    cache_path: '../caches/'
    save_path: '../models/'
    loss_func: 'CE'
    if_adv_weight: False
    cross_loss_source: False
    cross_loss_target: True
    weight_cross: 0.1
    consistency_weight_rampup: {ramp}
    opt_type: 'adam'
    lr_mode: 'fixed'
    total_iters: 200000
    rampup_iters: 50000
    learning_rate: 0.0001
    learning_rate_ms: 0.0001
    learning_rate_mt: 0.0001
    display_freq: 100
    show_freq: 500
    valid_freq: 500
    save_freq: 500
    power: 0.9
    weight_adv_temporal: {weight}
    weight_adv_spatial: {weight}
    lamda_wd: 0.01
    batch_size: 1
    num_workers: 4
    if_cuda: True
    random_seed: 555

DATA:
    data_dir_img: {source}
    data_dir_label: {source_label}
    data_list: {source_list}
    input_size: {size}
    source_stride: 1
    data_dir_target: {target}
    data_dir_target_label: {target_label}
    data_list_target: {target_list}
    input_size_target: {size}
{repeated}    target_stride: {stride}
    data_dir_val: {val}
    data_dir_val_label: {val_label}
    data_list_val: {val_list}
    input_size_test: 1024

TEST:
    pad: 48
    model_name: ''
"""


def volume(key: str, path: str, list_name: str) -> dict[str, str]:
    stem, suffix = (path[: -len(".hdf")], ".hdf") if path.endswith(".hdf") else (path, "")
    return {
        key: f"'../data/{path}'",
        f"{key}_label": f"'../data/{stem}_groundtruth{suffix}'",
        f"{key}_list": f"'../data/{list_name}'",
    }


VNC = volume("source", "VNC3/training", "VNC3/train.txt") | {
    "stride": "10",
    "weight": "0.001",
    "ramp": "True",
    "repeated": True,
}
LUCCHI = {"training": "Lucchi/train.txt", "testing": "Lucchi/testing.txt"}
PUBLISHED = {
    f"vnc2lucchi{number}": VNC
    | volume("target", f"Lucchi/{target}", LUCCHI[target])
    | volume("val", f"Lucchi/{val}", LUCCHI[val])
    for number, target, val in ((1, "training", "testing"), (2, "testing", "training"))
} | {
    name: {"stride": "1", "weight": weight, "ramp": ramp, "repeated": False}
    | volume("source", f"Mito/{source}/training.hdf", f"Mito/{source}/train.txt")
    | volume("target", f"Mito/{target}/training.hdf", f"Mito/{target}/train.txt")
    | volume("val", f"Mito/{target}/testing.hdf", f"Mito/{target}/test.txt")
    for name, source, target, weight, ramp in (
        ("mitor2h", "rat", "human", "0.01", "False"),
        ("mitoh2r", "human", "rat", "0.001", "True"),
    )
}


def published_yaml(name: str, size: str = "512") -> str:
    """A published file's text, with ``size`` as its crops' size."""
    values = PUBLISHED[name]
    repeated = f"    input_size_target: {size}\n" if values["repeated"] else ""
    return TEMPLATE.format(name=name, size=size, **values | {"repeated": repeated})
