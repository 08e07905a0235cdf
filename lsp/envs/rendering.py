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

_OFF = ("disabled", "disable", "off", "false", "0")
_EGL_PLATFORM_DEVICE_EXT = 0x313F
_MAX_EGL_DEVICES = 32
_INSTALL = "on Debian or Ubuntu run `apt-get install libegl1 libopengl0 libgl1-mesa-dri`"
_PROBE_SECONDS = 120
_PROBE = """
from dm_control import mujoco
physics = mujoco.Physics.from_xml_string(
    "<mujoco><worldbody><light pos='0 0 9'/><geom size='1'/></worldbody></mujoco>")
if physics.render(16, 16).max() == 0:
    raise RuntimeError("the rendered frame is black")
"""


def choose_gl() -> None:
    """Sets ``MUJOCO_GL`` on Linux: "egl", else "osmesa", else "disabled"; elsewhere does nothing.

    A value that the user set is kept, unless it names a library that cannot be opened here: then
    rendering is switched off (``rendering_problem`` says so) and everything else goes on working.
    Call it before dm_control or mujoco is imported; later calls change nothing.
    """
    if platform.system() != "Linux":
        return
    asked = os.environ.get("MUJOCO_GL", "").strip().lower()
    if not asked:
        os.environ["MUJOCO_GL"] = _first_that_opens()
    elif (asked == "egl" and not _egl_opens()) or (asked == "osmesa" and not _osmesa_opens()):
        os.environ["MUJOCO_GL"] = "disabled"


@functools.cache
def rendering_problem() -> str | None:
    """Renders a tiny scene and returns None, or one line saying what is wrong and what to install.

    The attempt runs once, in a process of its own, because a broken driver can take the whole
    process down with it. It never raises.
    """
    backend = os.environ.get("MUJOCO_GL", "").strip().lower()
    if backend in _OFF:
        return _why_off()
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


def _why_off() -> str:
    if platform.system() != "Linux" or _first_that_opens() != "disabled":
        return "Cannot render: MUJOCO_GL=disabled switches rendering off; unset it and start again."
    return _cannot_render("no OpenGL library can be opened here")


def _cannot_render(reason: str) -> str:
    return f"Cannot render ({reason}): {_INSTALL}, unset MUJOCO_GL, and start again."


def _first_that_opens() -> str:
    if _egl_opens():
        return "egl"
    return "osmesa" if _osmesa_opens() else "disabled"


def _pyopengl_allows(backend: str) -> bool:
    # dm_control refuses to import when this variable names another backend.
    return os.environ.get("PYOPENGL_PLATFORM", "") in ("", backend)


def _loads(*names: str) -> ctypes.CDLL | None:
    """The first of these shared libraries that can be loaded."""
    for name in names:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None


def _osmesa_opens() -> bool:
    names = ("libOSMesa.so.8", "libOSMesa.so.6", "libOSMesa.so")
    return _pyopengl_allows("osmesa") and _loads(*names) is not None


@functools.cache
def _egl_opens() -> bool:
    """Whether EGL can be loaded and opens a device: libEGL alone, without a driver, does not."""
    if not _pyopengl_allows("egl") or _loads("libOpenGL.so.0", "libGL.so.1") is None:
        return False
    egl = _loads("libEGL.so.1", "libEGL.so")
    if egl is None:
        return False
    egl.eglGetProcAddress.restype = ctypes.c_void_p
    egl.eglInitialize.argtypes = [ctypes.c_void_p] * 3
    query_address = egl.eglGetProcAddress(b"eglQueryDevicesEXT")
    display_address = egl.eglGetProcAddress(b"eglGetPlatformDisplayEXT")
    if not query_address or not display_address:
        return False
    query = ctypes.CFUNCTYPE(ctypes.c_uint, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
    display = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_uint, ctypes.c_void_p, ctypes.c_void_p)

    devices = (ctypes.c_void_p * _MAX_EGL_DEVICES)()
    found = ctypes.c_int(0)
    query(query_address)(_MAX_EGL_DEVICES, ctypes.byref(devices), ctypes.byref(found))
    return any(
        egl.eglInitialize(
            display(display_address)(_EGL_PLATFORM_DEVICE_EXT, device, None), None, None
        )
        for device in devices[: found.value]
    )
