"""Named lists of settings."""

from g2lstm.compression.methods import Method

PRESETS: dict[str, tuple[str, ...]] = {
    # Table 3
    "paper": ("round:0.2", "round:0.2+clip:0.4", "svd:128", "svd:64"),
    # Tables 4 and 5
    "translation": ("round:0.5", "round:0.5+clip:1", "svd:32", "svd:16"),
    # harsh settings, with ranks that mean the same for small models
    "relative": ("round:0.5", "round:0.5+clip:1", "svd:H/4", "svd:H/8", "svd:H/16", "svd:H/32"),
    # ranges for curves
    "ranks": ("svd:H/2", "svd:H/4", "svd:H/8", "svd:H/16", "svd:H/32", "svd:H/64"),
    "rounding": ("round:0.1", "round:0.2", "round:0.3", "round:0.5", "round:0.7", "round:1"),
    "bits": ("bits:8", "bits:6", "bits:4", "bits:3", "bits:2", "ternary"),
    "pruning": ("prune:0.3", "prune:0.5", "prune:0.7", "prune:0.8", "prune:0.9", "prune:0.95"),
    "factors": ("svd:H/4+bits:8", "svd:H/8+bits:8", "svd:H/16+bits:8", "svd:H/8+bits:4", "svd:H/16+bits:4"),
}
PRESETS["curves"] = (*PRESETS["ranks"], *PRESETS["rounding"], *PRESETS["bits"], *PRESETS["pruning"])


def chosen_methods(presets: str | None = None, settings: str | None = None) -> list[Method]:
    """The original, then each setting of the comma-separated presets and of `settings` once; of "paper" without both.

    Raises:
        ValueError: a preset or setting that does not exist.
    """
    listed = [[part for part in (text or "").split(",") if part] for text in (presets, settings)]
    names = listed[0] if presets or settings else ["paper"]
    for name in names:
        if name not in PRESETS:
            raise ValueError(f"there is no preset {name}: choose of {', '.join(PRESETS)}")
    texts = [text for name in names for text in PRESETS[name]] + listed[1]
    return list(dict.fromkeys([Method(), *(Method.parse(text) for text in texts)]))
