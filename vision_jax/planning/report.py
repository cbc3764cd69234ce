"""A plan as text for people and as plain values for machines."""

from collections.abc import Sequence

from vision_jax.planning.collectives import Collective
from vision_jax.planning.plans import Plan

GIB = 2**30


def to_dict(plan: Plan) -> dict:
    """The plan as JSON values: bytes, FLOPs, seconds; null if unknown."""
    work, times = plan.work, plan.times
    return {
        **plan.settings,
        "device_kind": plan.device_kind,
        "devices": plan.devices,
        "mesh": plan.mesh,
        "fits": plan.fits,
        "memory": plan.memory._asdict() | {"needed": plan.needed, "capacity": plan.capacity},
        "model_flops": plan.model_flops,
        "flops_per_device": work and work.flops,
        "bytes_per_device": work and work.traffic,
        "collectives": work and [_exchange(c) for c in work.collectives],
        "estimate": times and {"cycles": work.cycles, **times._asdict(), "step": times.step},
        "measured_step": plan.measured,
        "mfu": plan.mfu,
        "images_per_second": plan.seconds and plan.settings["batch_size"] / plan.seconds,
        "steps": plan.steps,
        "hours": plan.hours,
        "device_hours": plan.hours and plan.hours * plan.devices,
    }


def format_plan(name: str, plan: Plan) -> str:
    """The report of one plan."""
    s = plan.settings
    lines = [
        f"{name}: {s['model']} on {plan.devices} x {plan.device_kind}, mesh {_mesh(plan)}",
        f"batch {s['batch_size']} in {s['micro_batches']} micro-batch(es), remat {s['remat']}, scan {s['scan']}, {s['compute']}",
        "",
        "memory of a device, GiB",
        *(f"  {part:<16} {size / GIB:10.4g}" for part, size in plan.memory._asdict().items() if size),
        f"  {'needed':<16} {plan.needed / GIB:10.4g} of {plan.capacity / GIB:.4g}: {_verdict(plan)}",
    ]
    if plan.work:
        lines += ["", *_work(plan)]
    if plan.seconds:
        lines += ["", *_time(plan)]
    return "\n".join(lines)


def format_search(plans: Sequence[Plan]) -> str:
    """A table of plans, fastest first; those that do not fit come last and are marked."""
    head = f"{'mesh d x f x t':>16} {'micro':>5} {'remat':>6} {'GiB':>9} {'step ms':>9} {'MFU':>6} {'hours':>8}"
    rows = []
    for plan in sorted(plans, key=lambda plan: (not plan.fits, plan.seconds or float("inf"), plan.needed)):
        s = plan.settings
        mesh = " x ".join(map(str, plan.mesh.values()))
        time = f"{plan.seconds * 1e3:9.4g}" if plan.seconds else f"{'':9}"
        mfu = f"{plan.mfu:6.1%}" if plan.mfu else f"{'':6}"
        hours = f"{plan.hours:8.3g}" if plan.hours else f"{'':8}"
        mark = "" if plan.fits else "  does not fit"
        size = plan.needed / GIB
        rows.append(f"{mesh:>16} {s['micro_batches']:>5} {s['remat']:>6} {size:9.4g} {time} {mfu} {hours}{mark}")
    return "\n".join([head, *rows])


def _verdict(plan: Plan) -> str:
    if plan.fits:
        return "fits"
    if not plan.state_fits:
        return "the state alone does not fit; not compiled"
    return "DOES NOT FIT" + ("" if plan.work else ", the compiler refuses it; above is the state alone")


def _work(plan: Plan) -> list[str]:
    work = plan.work
    lines = [
        "a step of a device",
        f"  {'model FLOPs':<16} {plan.model_flops / plan.devices / 1e9:10.4g} G",
        f"  {'computed FLOPs':<16} {work.flops / 1e9:10.4g} G, recomputation included",
        f"  {'memory traffic':<16} {work.traffic / 1e9:10.4g} GB",
    ]
    for c in work.collectives:
        over = f" on {c.slices} slices" if c.slices > 1 else ""
        lines.append(f"  {c.kind:<18} {c.count:>5} x {_bytes(c.bytes):>9} over {c.group} devices{over}")
    return lines


def _time(plan: Plan) -> list[str]:
    lines = []
    if times := plan.times:
        unknown = plan.chip.network is None and any(c.slices > 1 for c in plan.work.collectives)
        without = "; the network between slices, whose speed is not published, is not in it" if unknown else ""
        lines += [
            "time by the compiler's estimate; nothing was run",
            f"  {'computing':<16} {times.computing * 1e3:10.4g} ms, {plan.work.cycles / 1e6:.1f} M cycles",
            f"  {'exchanging':<16} {times.exchanging * 1e3:10.4g} ms at the links' full bandwidth, not overlapped{without}",
            f"  {'step':<16} {times.step * 1e3:10.4g} ms; FLOPs and traffic at their peaks {times.roofline * 1e3:.4g} ms",
        ]
    else:
        lines += ["time, measured on made-up batches", f"  {'step':<16} {plan.measured * 1e3:10.4g} ms"]
    lines.append(f"  {'images/s':<16} {plan.settings['batch_size'] / plan.seconds:10.1f}")
    if plan.mfu:
        lines.append(f"  {'MFU':<16} {plan.mfu:10.1%}")
    recipe = f"{plan.steps} steps, {plan.hours:.3g} hours, {plan.hours * plan.devices:.4g} device-hours"
    return [*lines, f"  {'whole recipe':<16} {recipe}"]


def _exchange(c: Collective) -> dict:
    return {**c._asdict(), "received": c.received, "received_across": c.received_across}


def _mesh(plan: Plan) -> str:
    return " x ".join(f"{axis} {size}" for axis, size in plan.mesh.items())


def _bytes(size: int) -> str:
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= scale:
            return f"{size / scale:.3g} {unit}"
    return f"{size} B"
