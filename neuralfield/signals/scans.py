"""What was seen of one shape: points of its surface, distances, empty space, a depth map; from a file."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
import trimesh
from jaxtyping import Float

import neuralfield.files as files
from neuralfield.errors import NeuralfieldError, NeuralfieldWarning
from neuralfield.signals.mesh_files import chosen_frame, read_geometry
from neuralfield.signals.shapes import Sampled, Shapes

ALONG_RAY = 4
"""Points of empty space that each ray of a depth map gives."""
KNOWN = ("surface", "normals", "points", "distances", "empty", "depth", "c2w", "focal")


def scan(path: str, normalise: bool = True, frame: list[float] | None = None, seed: int = 0) -> Shapes:
    """One shape, partly seen: the points of a mesh file without faces (with its normals), or the arrays of an .npz file.

    The arrays: `surface` [n, 3] and their `normals` [n, 3]; `points` [n, 3] with signed `distances` [n]; `empty` [n, 3], known to
    be outside; `depth` [h, w] along the viewing axis (0: nothing there) with `c2w` [4, 4] (the camera looks along its own -z, y up)
    and `focal` in pixels. Any of them may be missing, but for what belongs together.

    A scan has the coordinates of its file. They are normalised as meshes are, by the box of what was seen of the surface: of a part
    that is not the box of the whole. Where the whole's is known say its centre and scale, `frame`; or `normalise` false.
    """
    file = Path(path).expanduser()
    try:
        seen = _arrays(file) if file.suffix.lower() == ".npz" else _points(file)
        return _shape(file.stem, seen, normalise, frame, np.random.default_rng(seed))
    except NeuralfieldError as error:
        raise NeuralfieldError(f"{file}: {error}") from error


def backprojected(
    depth: Float[np.ndarray, "h w"], c2w: Float[np.ndarray, "4 4"], focal: float, random: np.random.Generator
) -> tuple[Float[np.ndarray, "n 3"], Float[np.ndarray, "m 3"]]:
    """(points of the surface, points of empty space) that a depth map shows; its principal point is the image's centre.

    `depth` is along the viewing axis in the units of `c2w`, 0 where nothing was hit. Empty space lies between the camera and what
    it sees; rays that hit nothing are empty as far as the far side of the box of what was hit, or 1 where that is nothing.
    """
    turn, eye = c2w[:3, :3], c2w[:3, 3]
    if not np.allclose(turn @ turn.T, np.eye(3), atol=1e-3):
        raise NeuralfieldError("the first three columns of c2w are no rotation")
    if np.linalg.det(turn) < 0:
        raise NeuralfieldError("c2w is a mirror image, no rotation; the camera looks along its own -z, y up, x to the right")
    rows, columns = np.indices(depth.shape)
    height, width = depth.shape
    rays = np.stack([(columns + 0.5 - width / 2) / focal, -(rows + 0.5 - height / 2) / focal, -np.ones(depth.shape)], -1)
    rays = rays.reshape(-1, 3) @ turn.T
    far = depth.reshape(-1).astype(np.float64)
    surface = eye + rays[far > 0] * far[far > 0, None]
    reach = np.where(far > 0, far, _far_side(eye, surface) / np.linalg.norm(rays, axis=1))
    along = random.random((ALONG_RAY, len(far), 1)) * reach[:, None]
    return surface, (eye + rays * along).reshape(-1, 3)


def _far_side(eye: Float[np.ndarray, " 3"], points: Float[np.ndarray, "n 3"]) -> float:
    """How far from a place the farthest corner of the box of points is; 1 where there are none."""
    if not len(points):
        return 1.0
    return float(np.linalg.norm(np.maximum(np.abs(points.min(0) - eye), np.abs(points.max(0) - eye))))


def _shape(name: str, seen: dict[str, Any], normalise: bool, frame: list[float] | None, random: np.random.Generator) -> Shapes:
    surface, normals, empty = seen["surface"], seen.get("normals"), seen["empty"]
    if "depth" in seen:
        on, free = backprojected(seen["depth"], seen["c2w"], float(seen["focal"]), random)
        if normals is not None:
            normals = np.concatenate([normals, np.zeros_like(on)])
        surface, empty = np.concatenate([surface, on]), np.concatenate([empty, free])
    if not len(surface) and not len(seen["points"]):
        raise NeuralfieldError("it shows no point on the surface, nor distances to it")
    frame = chosen_frame(surface, normalise, frame)
    centre, scale = np.array(frame[:3]), frame[3]
    empty = (empty - centre) / scale
    empty = empty[(np.abs(empty) <= 1).all(1)]
    inside = (np.abs(surface - centre) <= scale).all(1)
    if len(surface) and not inside.any():
        raise NeuralfieldError(
            f"none of its surface lies in the cube from -1 to 1, with the frame {frame}; say another with signals.frame, or none"
        )
    if not inside.all():
        left = f"left out {int((~inside).sum())} of {len(surface)} points of the surface, beyond the cube from -1 to 1"
        warnings.warn(left, NeuralfieldWarning, stacklevel=4)
    surface, normals = surface[inside], None if normals is None else normals[inside]
    known = np.concatenate([_with(surface - centre, 0.0), _with(seen["points"] - centre, seen["distances"])]) / scale
    samples = np.concatenate([known, _with(empty, 0.0)]).astype(np.float32)
    sampled = Sampled(samples, None if normals is None else normals.astype(np.float32), len(empty))
    return Shapes([sampled], [name], torch.tensor([frame], dtype=torch.float64))


def _with(points: Float[np.ndarray, "n 3"], value: Any) -> Float[np.ndarray, "n 4"]:
    return np.concatenate([points, np.broadcast_to(value, len(points))[:, None]], 1)


def _points(file: Path) -> dict[str, Any]:
    """The vertices of a file of any format that trimesh reads, and their normals where it is a PLY file that has them."""
    geometry = read_geometry(file)
    points = np.asarray(getattr(geometry, "vertices", np.zeros((0, 3))), np.float64)
    seen = {"surface": points, "points": np.zeros((0, 3)), "distances": np.zeros(0), "empty": np.zeros((0, 3))}
    if not np.isfinite(points).all():
        raise NeuralfieldError("it has points that are not finite")
    normals = _ply_normals(geometry)
    return seen if normals is None or len(normals) != len(points) else seen | {"normals": normals}


def _ply_normals(geometry: trimesh.Geometry) -> Float[np.ndarray, "n 3"] | None:
    data = geometry.metadata.get("_ply_raw", {}).get("vertex", {}).get("data")
    try:
        normals = np.stack([np.asarray(data[name], np.float64).reshape(-1) for name in ("nx", "ny", "nz")], 1)
    except (TypeError, KeyError, ValueError, IndexError):
        return None
    return _unit(normals)


def _unit(normals: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
    """Of unit length; what has none, or is not finite, is unknown, 0."""
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    good = np.isfinite(length) & (length > 1e-12)
    return np.where(good, normals, 0.0) / np.where(good, length, 1.0)


def _arrays(file: Path) -> dict[str, Any]:
    arrays = files.read_npz(file)
    found = {name: arrays[name] for name in KNOWN if name in arrays}
    for name, array in found.items():
        if array.dtype.kind not in "biuf":
            raise NeuralfieldError(f'array "{name}" must hold numbers, got {array.dtype}')
        found[name] = array.astype(np.float64)
    if not found:
        raise NeuralfieldError(f"it has none of the arrays {', '.join(KNOWN)}; there are: {', '.join(arrays) or 'none'}")
    for name in ("surface", "points", "empty"):
        found.setdefault(name, np.zeros((0, 3)))
    for name in {"surface", "normals", "points", "empty"} & found.keys():
        array = found[name]
        if array.ndim != 2 or array.shape[1] != 3 or not np.isfinite(array).all():
            raise NeuralfieldError(f'array "{name}" must hold finite points [n, 3], got {list(array.shape)}')
    found.setdefault("distances", np.zeros(0))
    if found["distances"].shape != (len(found["points"]),) or not np.isfinite(found["distances"]).all():
        shapes = f"{list(found['distances'].shape)} for {len(found['points'])} points"
        raise NeuralfieldError(f'array "distances" must hold a finite number for each of "points", got {shapes}')
    if "normals" in found and found["normals"].shape != found["surface"].shape:
        raise NeuralfieldError('array "normals" must hold a direction for each point of "surface"')
    if "normals" in found:
        found["normals"] = _unit(found["normals"])
    camera = [name for name in ("depth", "c2w", "focal") if name in found]
    if camera:
        _check_camera({name: found.get(name, np.zeros((0, 0, 0))) for name in ("depth", "c2w", "focal")})
        found["focal"] = found["focal"].reshape(())
    return found


def _check_camera(found: dict[str, np.ndarray]) -> None:
    depth, c2w, focal = found["depth"], found["c2w"], found["focal"]
    good = {"depth": depth.ndim == 2, "c2w": c2w.shape == (4, 4), "focal": focal.shape in ((), (1,))}
    if wrong := [name for name, right in good.items() if not right]:
        raise NeuralfieldError(f'a depth map needs arrays depth [h, w], c2w [4, 4] and focal []; "{wrong[0]}" is not so')
    if not (np.isfinite(depth).all() and (depth >= 0).all()):
        raise NeuralfieldError('array "depth" must hold finite depths, 0 where nothing is there')
    if not (np.isfinite(c2w).all() and np.isfinite(focal).all() and (focal > 0).all()):
        raise NeuralfieldError('arrays "c2w" and "focal" must be finite, and focal positive')
