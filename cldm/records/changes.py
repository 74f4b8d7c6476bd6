"""What of files and machine is not as it was when an image was made."""

from cldm.records.record import FLAGS, Record, Runtime, WeightsFile


def changes_since(then: Record, now: Record) -> list[str]:
    """What may make another image of the same wishes, a sentence each.

    Args:
        then: Of the image.
        now: Of what it would be made with. A file with an empty hash is one that is not known yet: its size is told
            from another's, and its name where the size is the same.
    """
    before, after = ((*record.weights, *record.control_weights) for record in (then, now))
    if len(before) != len(after):
        names = [", ".join(file.name for file in files) or "none" for files in (after, before)]
        return [f"{names[0]} are not the files {names[1]}, which the image was made with", *_other_machine(then, now)]
    pairs = [*zip(before, after, strict=True), *([(then.config, now.config)] if then.config and now.config else [])]
    return [*(_other(*pair) for pair in pairs if _differ(*pair)), *_other_machine(then, now)]


def _differ(then: WeightsFile, here: WeightsFile) -> bool:
    if here.sha256:
        return then.sha256 != here.sha256
    return then.bytes != here.bytes or then.name != here.name


def _other(then: WeightsFile, here: WeightsFile) -> str:
    told = f"SHA-256 {here.short_hash}" if here.sha256 else f"{here.bytes} bytes"
    wanted = then.short_hash if here.sha256 else f"{then.bytes} bytes"
    return f"{here.name} ({told}) is not {then.name} ({wanted}), which the image was made with"


def _other_machine(then: Record, now: Record) -> list[str]:
    return [] if then.runtime is None or now.runtime is None else _other_runtime(then.runtime, now.runtime)


def _other_runtime(then: Runtime, here: Runtime) -> list[str]:
    facts = [(name, getattr(then, name), getattr(here, name)) for name in ("device", "precision", "threads")]
    facts += [(name, bool(then.flags.get(name)), bool(here.flags.get(name))) for name in FLAGS]
    facts += [(name, version, here.versions.get(name, "none")) for name, version in sorted(then.versions.items())]
    return [f"{name}: {before} then, {after} now" for name, before, after in facts if before != after]
