"""What ``-v``, ``--mount`` and ``--tmpfs`` ask for, checked and turned into mount points (pure)."""

import posixpath
from collections.abc import Callable, Mapping

from msgspec.structs import replace

from cais.containers.record import MountPoint
from cais.errors import Invalid, Unsupported
from cais.spec.container import HostConfig, Mount, TmpfsOptions

PROPAGATIONS = ("private", "rprivate", "slave", "rslave", "shared", "rshared")
_DEFAULT_PROPAGATION = "rprivate"
_MODE_GROUPS: tuple[frozenset[str], ...] = (
    frozenset(("rw", "ro")),
    frozenset(("z", "Z")),
    frozenset(PROPAGATIONS),
    frozenset(("nocopy",)),
    frozenset(("consistent", "cached", "delegated", "default")),
)
"""Words after the second colon of ``-v``; at most one of each group."""

_TMPFS_FLAGS = frozenset(
    """async atime bind defaults dev diratime dirsync exec iversion lazytime loud mand noatime nodev nodiratime
    noexec noiversion nolazytime nomand norelatime nostrictatime nosuid private rbind relatime remount rprivate
    rshared rslave runbindable ro rw shared silent slave strictatime suid sync unbindable""".split()  # noqa: SIM905
)
_TMPFS_KEYS = frozenset(("gid", "mode", "mpol", "nr_blocks", "nr_inodes", "size", "uid"))


def clean(path: str) -> str:
    """Go's ``path.Clean``: like normpath, and two leading slashes are one."""
    cleaned = posixpath.normpath(path)
    return cleaned[1:] if cleaned.startswith("//") else cleaned


def parse_bind(raw: str, volume_driver: str = "") -> MountPoint:
    """``-v`` text ``[source:]target[:mode]``: an absolute source is a bind, another a volume's name, none an
    anonymous volume. Raises Invalid in Docker's words."""
    parts = raw.split(":", 3)
    wrong = f"invalid volume specification: '{raw}'"
    if not parts[0] or len(parts) > 3 or (len(parts) == 2 and valid_mode(parts[1])):
        raise Invalid(wrong)
    source, target = ("", parts[0]) if len(parts) == 1 else (parts[0], parts[1])
    mode = parts[2] if len(parts) == 3 else ""
    if not valid_mode(mode):
        raise Invalid(f"invalid mode: {mode}")
    words = mode.split(",")
    kind = "bind" if source.startswith("/") else "volume"
    try:
        _check_target(target)
    except Invalid as error:
        raise Invalid(f'{wrong}: invalid mount config for type "{kind}": {error}') from error
    point = MountPoint(
        type=kind, destination=clean(target), mode=mode, rw="ro" not in words, copy_up="nocopy" not in words
    )
    asked = next((word for word in words if word in PROPAGATIONS), "")
    if kind == "bind":
        if "nocopy" in words:
            raise Invalid(
                f'{wrong}: invalid mount config for type "bind": field VolumeOptions must not be specified'
            )
        return replace(
            point,
            source=clean(source),
            propagation=asked or _DEFAULT_PROPAGATION,
            copy_up=False,
            create_source=True,
        )
    if asked:
        raise Invalid(
            f'{wrong}: invalid mount config for type "volume": field BindOptions must not be specified'
        )
    return replace(point, name=source, driver=volume_driver or "local", anonymous=not source)


def valid_mode(mode: str) -> bool:
    """Only known words, none of a kind twice."""
    if not mode:
        return True
    groups = [next((group for group in _MODE_GROUPS if word in group), None) for word in mode.split(",")]
    return None not in groups and len({id(group) for group in groups}) == len(groups)


def parse_mount(mount: Mount) -> MountPoint:
    """One ``--mount``. Raises Invalid: ``invalid mount config for type "bind": …``."""
    try:
        return _parse_mount(mount)
    except Invalid as error:
        raise Invalid(f'invalid mount config for type "{mount.type}": {error}') from error


def _parse_mount(mount: Mount) -> MountPoint:
    _check_exclusive(mount)
    if not mount.target:
        raise Invalid("field Target must not be empty")
    _check_target(mount.target)
    point = MountPoint(type=mount.type, destination=clean(mount.target), rw=not mount.read_only)
    if mount.type == "bind":
        return _bind(point, mount)
    if mount.type == "volume":
        return _volume(point, mount)
    if mount.type == "tmpfs":
        if mount.source:
            raise Invalid("field Source must not be specified")
        return replace(point, options=format_tmpfs(mount.tmpfs_options or TmpfsOptions(), mount.read_only))
    if mount.type in ("image", "cluster"):
        raise Unsupported(f"mount type {mount.type} is not supported")
    raise Invalid("mount type unknown")


def _check_exclusive(mount: Mount) -> None:
    options = {
        "bind": ("BindOptions", mount.bind_options),
        "volume": ("VolumeOptions", mount.volume_options),
        "image": ("ImageOptions", mount.image_options),
        "tmpfs": ("TmpfsOptions", mount.tmpfs_options),
        "cluster": ("ClusterOptions", mount.cluster_options),
    }
    for kind, (name, value) in options.items():
        if mount.type != kind and value is not None:
            raise Invalid(f"field {name} must not be specified")


def _check_target(target: str) -> None:
    if clean(target) == "/":
        raise Invalid("invalid specification: destination can't be '/'")
    if not target.startswith("/"):
        raise Invalid(f"invalid mount path: '{target}' mount path must be absolute")
    if clean(target) == "/proc":
        # A false procfs could swallow what is written to /proc/self/attr (CVE-2019-16884).
        raise Invalid(f"invalid mount path: '{target}' cannot be replaced")
    if "\0" in target:
        raise Invalid("invalid mount path: it has a null byte")


def _bind(point: MountPoint, mount: Mount) -> MountPoint:
    if not mount.source:
        raise Invalid("field Source must not be empty")
    options = mount.bind_options
    propagation = options.propagation if options else ""
    if propagation and propagation not in PROPAGATIONS:
        raise Invalid(f"invalid propagation mode: {propagation}")
    if not mount.source.startswith("/"):
        raise Invalid(f"invalid mount path: '{mount.source}' mount path must be absolute")
    point = replace(point, source=clean(mount.source), propagation=propagation or _DEFAULT_PROPAGATION)
    if options is None:
        return point
    partial, forced = options.read_only_non_recursive, options.read_only_force_recursive
    for name, given in (("ReadOnlyNonRecursive", partial), ("ReadOnlyForceRecursive", forced)):
        if given and not mount.read_only:
            raise Invalid(f"mount options conflict: !ReadOnly && BindOptions.{name}")
    if partial and forced:
        raise Invalid("mount options conflict: ReadOnlyNonRecursive && BindOptions.ReadOnlyForceRecursive")
    return replace(
        point,
        non_recursive=options.non_recursive,
        create_source=options.create_mountpoint,
        read_only_non_recursive=partial,
        read_only_force_recursive=forced,
    )


def _volume(point: MountPoint, mount: Mount) -> MountPoint:
    options = mount.volume_options
    subpath = options.subpath if options else ""
    if subpath and not mount.source:
        raise Invalid("must not set Subpath when using anonymous volumes")
    if subpath and (subpath.startswith("/") or clean(subpath).split("/", 1)[0] == ".."):
        raise Invalid("subpath must be a relative path within the volume")
    if subpath:
        # The runtime would open it by path, and who shares the volume could swap a folder for a link in between.
        raise Unsupported("subpaths of volumes are not supported")
    driver = options.driver_config if options else None
    return replace(
        point,
        name=mount.source,
        driver=(driver.name if driver else "") or "local",
        anonymous=not mount.source,
        copy_up=not (options and options.no_copy),
        labels=options.labels if options else {},
        driver_options=driver.options if driver else {},
    )


def format_tmpfs(options: TmpfsOptions, read_only: bool) -> str:
    """The comma list of a ``--mount type=tmpfs``."""
    words = ["ro"] if read_only else []
    if options.mode:
        words.append(f"mode={options.mode:o}")
    if options.size_bytes:
        words.append(f"size={options.size_bytes}")
    for option in options.options:
        if len(option) not in (1, 2):
            raise Invalid("invalid option array length")
        if option[0] not in ("exec", "noexec"):
            raise Invalid(f"invalid option: {option[0]}")
        words.append("=".join(option))
    return ",".join(words)


def tmpfs_words(options: str) -> tuple[str, ...]:
    """The options of a tmpfs over Docker's defaults; a later word replaces the earlier one that it contradicts.
    Raises Invalid for a word that no tmpfs knows."""
    words: dict[str, str] = {}
    for word in ["noexec", "nosuid", "nodev", _DEFAULT_PROPAGATION, *options.split(",")]:
        if not word:
            continue
        key, equals, _ = word.partition("=")
        if not ((equals and key in _TMPFS_KEYS) or (not equals and key in _TMPFS_FLAGS)):
            raise Invalid(f'invalid tmpfs option "{word}"')
        about = {"rw": "ro"}.get(key, "propagation" if key in PROPAGATIONS else key.removeprefix("no"))
        words[about] = word
    return tuple(words.values())


def plan_mounts(
    host: HostConfig, inherited: tuple[MountPoint, ...], image_volumes: Mapping[str, object]
) -> tuple[MountPoint, ...]:
    """All mount points of a container: ``--volumes-from`` (``inherited``), then ``-v``, then ``--mount``, then the
    image's own volumes where nothing else is mounted; parents before children. Raises Invalid."""
    points = {point.destination: point for point in inherited}
    for target, options in host.tmpfs.items():
        _check_target(target)
        tmpfs_words(options)
    tmpfs = {clean(target) for target in host.tmpfs}
    asked: set[str] = set()
    for point, target in _asked(host):
        if point.destination in asked or point.destination in tmpfs:
            raise Invalid(f"Duplicate mount point: {target}")
        asked.add(point.destination)
        points[point.destination] = point
    for target in image_volumes:
        _check_target(target)
        destination = clean(target)
        if destination not in points and destination not in tmpfs:
            points[destination] = MountPoint(
                type="volume", destination=destination, driver="local", copy_up=True, anonymous=True
            )
    return tuple(sorted(points.values(), key=lambda point: (point.destination.count("/"), point.destination)))


def _asked(host: HostConfig) -> list[tuple[MountPoint, str]]:
    binds = [parse_bind(raw, host.volume_driver) for raw in host.binds]
    mounts = [(parse_mount(mount), mount.target) for mount in host.mounts]
    return [(point, point.destination) for point in binds] + mounts


def check_sources(points: tuple[MountPoint, ...], exists: Callable[[str], bool]) -> None:
    """``--mount type=bind`` wants its source to be there. Raises Invalid."""
    for point in points:
        if point.type == "bind" and not point.create_source and not exists(point.source):
            raise Invalid(
                f'invalid mount config for type "bind": bind source path does not exist: {point.source}'
            )


def parse_volumes_from(text: str) -> tuple[str, bool]:
    """``container[:mode]`` → container, writable. Raises Invalid."""
    if not text:
        raise Invalid("volumes-from specification cannot be an empty string")
    name, _, mode = text.partition(":")
    words = mode.split(",")
    if not valid_mode(mode) or "nocopy" in words or any(word in PROPAGATIONS for word in words):
        raise Invalid(f"invalid mode: {mode}")
    return name, "ro" not in words
