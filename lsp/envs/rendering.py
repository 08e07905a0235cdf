"""Chooses an OpenGL backend for MuJoCo, and says in one line why rendering is impossible.

dm_control reads ``MUJOCO_GL`` once, when it is first imported, and *fails to import* when the
backend named there does not work, even for somebody who never renders. So ``choose_gl`` runs before
that import and only names a backend that opens.
"""

import ctypes
import functools
import os
import platform
import subprocess
import sys

Problem = tuple[str, str]
"""What is wrong, and what to do."""

_WINDOW = ("glfw", "on", "enable", "enabled", "true", "1")  # as dm_control calls them
_REASON = "LSP_CANNOT_RENDER"  # the variable that says why rendering was switched off
_OFF = ("disabled", "disable", "off", "false", "0")
_EGL_PLATFORM_DEVICE_EXT = 0x313F
_MAX_EGL_DEVICES = 32
_INSTALL = "on Debian or Ubuntu run `apt-get install libegl1 libopengl0 libgl1-mesa-dri`"
_INSTALL_OSMESA = "on Debian or Ubuntu run `apt-get install libosmesa6`, or unset MUJOCO_GL"
_PROBE_SECONDS = 120
_PROBE = """
from dm_control import mujoco
physics = mujoco.Physics.from_xml_string(
    "<mujoco><worldbody><light pos='0 0 9'/><geom size='1'/></worldbody></mujoco>")
if physics.render(16, 16).max() == 0:
    raise RuntimeError("the rendered frame is black")
"""


def choose_gl() -> None:
    """Sets ``MUJOCO_GL`` on Linux: "egl", else "osmesa", else "disabled"; elsewhere it is kept.

    A value that the user set is kept, unless nothing can be rendered with it here, be it unknown,
    or that a library or the device of another variable cannot be opened: then rendering is
    switched off (``rendering_problem`` says why) and everything else goes on working. Call it
    before dm_control or mujoco is imported; later calls change nothing.
    """
    asked = os.environ.get("MUJOCO_GL", "").strip().lower()
    if not os.environ.get("MUJOCO_EGL_DEVICE_ID", "0").strip():
        del os.environ["MUJOCO_EGL_DEVICE_ID"]  # which dm_control would read as a number
    if asked in (*_OFF, *_WINDOW):
        os.environ["MUJOCO_GL"] = asked
    elif asked and asked not in _HEADLESS:
        known = ", ".join([*_HEADLESS, _WINDOW[0]])
        _switch_off(f"MUJOCO_GL={asked} is none of {known}", "unset it")
    elif platform.system() == "Linux":
        _choose_headless(asked)


def _choose_headless(asked: str) -> None:
    """What was asked for, or the first that opens; of several that do not, EGL says why."""
    problems = [_HEADLESS[name]() for name in _HEADLESS if asked in ("", name)]
    for name, problem in zip([asked] if asked else _HEADLESS, problems, strict=True):
        if problem is None:
            os.environ["MUJOCO_GL"] = name
            return
    assert problems[0] is not None
    _switch_off(*problems[0])


def _switch_off(reason: str, advice: str) -> None:
    """Other processes inherit the reason, beside what it led to."""
    os.environ["MUJOCO_GL"] = "disabled"
    os.environ[_REASON] = f"Cannot render ({reason}): {advice}, and start again."


@functools.cache
def rendering_problem() -> str | None:
    """Renders a tiny scene and returns None, or one line saying what is wrong and what to install.

    The attempt runs once, in a process of its own, because a broken driver can take the whole
    process down with it. It never raises.
    """
    backend = os.environ.get("MUJOCO_GL", "").strip().lower()
    if backend in _OFF:
        by_hand = (
            f"Cannot render: MUJOCO_GL={backend} switches rendering off; unset it and start again."
        )
        return os.environ.get(_REASON, by_hand)
    try:
        probe = subprocess.run(
            [sys.executable, "-c", _PROBE],
            capture_output=True,
            text=True,
            timeout=_PROBE_SECONDS,
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as error:
        return _cannot_render(f"the attempt did not finish: {error}")
    if probe.returncode == 0:
        return None
    lines = probe.stderr.strip().splitlines() or [f"exit status {probe.returncode}"]
    return _cannot_render(f"MUJOCO_GL={backend or 'unset'}: {lines[-1].strip()}")


def _cannot_render(reason: str) -> str:
    return f"Cannot render ({reason}): {_INSTALL}, unset MUJOCO_GL, and start again."


def _other_platform(backend: str) -> Problem | None:
    """dm_control refuses to import where PyOpenGL is told to use another backend."""
    told = os.environ.get("PYOPENGL_PLATFORM", "")
    if told in ("", backend):
        return None
    return f"PYOPENGL_PLATFORM={told} keeps {backend} from being used", "unset it"


def _loads(*names: str) -> ctypes.CDLL | None:
    """The first of these shared libraries that can be loaded."""
    for name in names:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None


def _osmesa_problem() -> Problem | None:
    names = ("libOSMesa.so.8", "libOSMesa.so.6", "libOSMesa.so")
    if problem := _other_platform("osmesa"):
        return problem
    return None if _loads(*names) else ("libOSMesa cannot be opened here", _INSTALL_OSMESA)


def _egl_problem() -> Problem | None:
    """None where EGL opens the device that dm_control will: libEGL alone, without a driver, has
    none."""
    if problem := _other_platform("egl"):
        return problem
    opened = _egl_devices()
    if not opened:
        return "no OpenGL library that has a device can be opened here", _INSTALL
    chosen = os.environ.get("MUJOCO_EGL_DEVICE_ID")
    if chosen is None:
        return None if any(opened) else ("no EGL device can be opened", _INSTALL)
    try:
        number = int(chosen)
    except ValueError:
        number = -1
    if not 0 <= number < len(opened):
        there = f"MUJOCO_EGL_DEVICE_ID={chosen} is no EGL device: there are {len(opened)}, from 0"
        return there, "unset it"
    return None if opened[number] else (f"EGL device {number} cannot be opened", "choose another")


_HEADLESS = {"egl": _egl_problem, "osmesa": _osmesa_problem}


@functools.cache
def _egl_devices() -> list[bool]:
    """Whether each EGL device can be opened; none where EGL cannot be loaded."""
    if _loads("libOpenGL.so.0", "libGL.so.1") is None:
        return []
    egl = _loads("libEGL.so.1", "libEGL.so")
    if egl is None:
        return []
    egl.eglGetProcAddress.restype = ctypes.c_void_p
    egl.eglInitialize.argtypes = [ctypes.c_void_p] * 3
    query_address = egl.eglGetProcAddress(b"eglQueryDevicesEXT")
    display_address = egl.eglGetProcAddress(b"eglGetPlatformDisplayEXT")
    if not query_address or not display_address:
        return []
    query = ctypes.CFUNCTYPE(ctypes.c_uint, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
    display = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_uint, ctypes.c_void_p, ctypes.c_void_p)

    devices = (ctypes.c_void_p * _MAX_EGL_DEVICES)()
    found = ctypes.c_int(0)
    query(query_address)(_MAX_EGL_DEVICES, ctypes.byref(devices), ctypes.byref(found))
    return [
        bool(
            egl.eglInitialize(
                display(display_address)(_EGL_PLATFORM_DEVICE_EXT, device, None), None, None
            )
        )
        for device in devices[: found.value]
    ]
