"""What a process that runs generated code can see and reach of the machine: next to nothing.

Linux only: a network without interfaces, a numbering of processes of its own, and a file system in
memory that shows Python and the system's programs, read-only, and nothing of anybody's files. What
the kernel refuses is an OSError: there is no weaker way that would do.

This does not protect against faults of the kernel: no system call is filtered.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import tempfile
from pathlib import Path

NEW_NAMESPACES = 0x20000 | 0x4000000 | 0x8000000 | 0x20000000 | 0x40000000
"""CLONE_NEWNS, NEWUTS, NEWIPC, NEWPID and NEWNET of sched.h."""
NEW_USER = 0x10000000

NO_SUID, NO_DEVICES, BIND, PRIVATE, RECURSIVE = 0x2, 0x4, 0x1000, 0x40000, 0x4000
"""MS_NOSUID, MS_NODEV, MS_BIND, MS_PRIVATE and MS_REC of sys/mount.h."""
MOUNT_SETATTR, AT_FDCWD, AT_RECURSIVE = 442, -100, 0x8000
READ_ONLY_NO_SUID = 0x1 | 0x2
DETACH = 0x2
SIGNAL_AT_PARENTS_DEATH, NO_NEW_PRIVILEGES = 1, 38
"""PR_SET_PDEATHSIG and PR_SET_NO_NEW_PRIVS of sys/prctl.h."""
CAPABILITIES_VERSION = 0x20080522

VISIBLE = (
    *("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/usr", "/nix/store"),
    *("/etc/alternatives", "/etc/ld.so.cache", "/etc/localtime"),
    *("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom"),
)
"""What programs need of a system. Not /proc, /run or /etc: they hold secrets and sockets."""

ROOT = "/proc"
"""Where the new root is built: a folder that is always there, and that nothing visible lies in."""
FOLDER = "/sandbox"
"""The empty working folder, in memory: it is gone with the last process that sees it."""

FIRST_ID = 0x70000000
"""User ids from here on belong to nobody by the convention of Linux distributions."""


def leave() -> None:
    """Leave the machine's network, mounts and processes; the next child is the first of its own.

    Raises:
        OSError: The kernel does not allow it.
    """
    user, group = os.geteuid(), os.getegid()
    # Root needs no user namespace, and without one it can give its children an id of their own.
    _call("unshare", NEW_NAMESPACES | (NEW_USER if user else 0))
    if user:
        Path("/proc/self/setgroups").write_text("deny", encoding="utf-8")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1", encoding="utf-8")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1", encoding="utf-8")


def enter(size: int) -> None:
    """Show this process a new file system only, and let it write there only.

    Args:
        size: Most bytes of all files together.

    Raises:
        OSError: The kernel does not allow it.
    """
    os.umask(0)
    _mount(None, "/", None, RECURSIVE | PRIVATE)
    _mount("tmpfs", ROOT, "tmpfs", NO_SUID | NO_DEVICES, f"size={size},nr_inodes=4096,mode=1777")
    for path in sorted({os.path.realpath(path) for path in _visible()}):
        _show(path)
    for path in _visible():
        if not os.path.lexists(ROOT + path):
            _parent_of(ROOT + path)
            Path(ROOT + path).symlink_to(os.path.realpath(path))
    for folder in (FOLDER, "/dev/shm"):  # noqa: S108 (where the C library keeps semaphores)
        Path(ROOT + folder).mkdir(parents=True, exist_ok=True)
    os.chdir(ROOT)
    _call("pivot_root", b".", b".")
    _call("umount2", b".", DETACH)
    os.chdir(FOLDER)
    os.umask(0o077)


def drop_privileges(number: int) -> None:
    """Give up what root or the owner of a user namespace may do.

    Args:
        number: Tells sandboxes of root apart, so that each has a user id of its own. The kernel
            does not limit the processes of root, and counts those of one id together.

    Raises:
        OSError: The kernel does not allow it.
    """
    if os.geteuid() == 0:
        nobody = FIRST_ID + number
        os.setgroups([])
        os.setresgid(nobody, nobody, nobody)
        os.setresuid(nobody, nobody, nobody)
    header = (ctypes.c_uint32 * 2)(CAPABILITIES_VERSION, 0)
    _call("capset", header, (ctypes.c_uint32 * 6)())
    _call("prctl", NO_NEW_PRIVILEGES, *map(ctypes.c_ulong, (1, 0, 0, 0)))
    # A change of user would unset it. Nobody kills the keeper, but memory may run out.
    _call("prctl", SIGNAL_AT_PARENTS_DEATH, ctypes.c_ulong(signal.SIGKILL))


def _visible() -> list[str]:
    own = (sys.prefix, sys.base_prefix, sys.exec_prefix, *sys.path)
    # `python -m` puts the current folder on the path: it may be home, with all its secrets.
    private = [Path(os.path.realpath(path)) for path in (Path.home(), tempfile.gettempdir())]
    return [
        path
        for path in (*VISIBLE, *map(os.path.normpath, filter(os.path.isabs, own)))
        if os.path.exists(path)  # noqa: PTH110 (not all that stands on the path of Python is)
        and not any(folder.is_relative_to(os.path.realpath(path)) for folder in private)
    ]


def _show(path: str) -> None:
    target = ROOT + path
    if os.path.lexists(target):
        return  # in a folder that is shown
    _parent_of(target)
    if Path(path).is_dir():
        Path(target).mkdir()
    else:
        Path(target).touch()
    _mount(path, target, None, BIND | RECURSIVE)
    attributes = (ctypes.c_uint64 * 4)(READ_ONLY_NO_SUID, 0, 0, 0)
    size = ctypes.c_size_t(ctypes.sizeof(attributes))
    where = target.encode()
    _call("syscall", MOUNT_SETATTR, AT_FDCWD, where, AT_RECURSIVE, attributes, size)


def _parent_of(path: str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)


def _mount(source: str | None, target: str, kind: str | None, flags: int, data: str = "") -> None:
    texts = [None if text is None else os.fsencode(text) for text in (source, target, kind)]
    _call("mount", *texts, ctypes.c_ulong(flags), data.encode() or None)


def _call(function: str, *arguments: object) -> None:
    # Looked up per call: Linux has all of them, and other systems may import this module.
    library = ctypes.CDLL(None, use_errno=True)
    if getattr(library, function)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{function}: {os.strerror(number)}")
