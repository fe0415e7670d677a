"""What requests leave behind: hooks, and memory."""

import gc

from modules import script_callbacks, scripts, sd_models, shared

from lib_fault.networks import unet_of


def hooks():
    """What is hooked into the U-Nets in memory, but for the wrappers of its own that Hypertile leaves and marks."""
    models = [shared.sd_model, *getattr(sd_models.model_data, "loaded_sd_models", [])]
    modules = {module for unet in map(unet_of, models) if unet is not None for module in unet.modules()}
    forwards = [m for m in modules if "forward" in vars(m) and "__webui_hypertile_params" not in vars(m)]
    ours = [m for m in modules if hasattr(vars(m).get("forward"), "is_masactrl_hook")]
    return {
        "control_signals": sum("apply_effective_region_mask" in vars(holder) for holder in control_objects()),
        "forwards": len({*forwards, *ours}),
        "ours": len(ours),
        "callbacks": len(script_callbacks.callback_map["callbacks_cfg_denoiser"]),
        "pre_hooks": sum(len(module._forward_pre_hooks) for module in modules),
        "post_hooks": sum(len(module._forward_hooks) for module in modules),
    }


def control_objects():
    """What a ControlNet extension keeps of its last request, and of the models in its cache."""
    for runner in (scripts.scripts_txt2img, scripts.scripts_img2img):
        for script in runner.alwayson_scripts:
            if script.title().lower() == "controlnet":
                yield from getattr(getattr(script, "latest_network", None), "control_params", None) or ()
                yield from (entry[0] for entry in getattr(type(script), "model_cache", {}).values())


def memory():
    gc.collect()
    with open("/proc/self/statm", encoding="ascii") as statm:
        pages = int(statm.read().split()[1])
    return {"rss_mib": pages * 4096 / 2**20, "objects": len(gc.get_objects())}
