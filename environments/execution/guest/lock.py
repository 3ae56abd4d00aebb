"""How candidate and judge lock themselves in: resource limits, and a system call filter that cannot be taken off."""

from __future__ import annotations

import ctypes
import os
import resource
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:  # `typing` takes longer to import than a program to run
    from typing import Any

_MACHINES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
# Name → number on x86_64 and on aarch64 (-1: there is none). What a function on numbers and strings never needs.
_FORBIDDEN = {
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
    "pidfd_open": (434, 434), "pidfd_getfd": (438, 438), "pidfd_send_signal": (424, 424),
    "process_madvise": (440, 440), "process_mrelease": (448, 448),
    "kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131),
    "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240),
    "fork": (57, -1), "vfork": (58, -1), "clone": (56, 220), "clone3": (435, 435),
    "execve": (59, 221), "execveat": (322, 281), "unshare": (272, 97), "setns": (308, 268),
    "socket": (41, 198), "socketpair": (53, 199), "connect": (42, 203), "bind": (49, 200), "listen": (50, 201),
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "open_tree": (428, 428),
    "move_mount": (429, 429), "fsopen": (430, 430), "fsconfig": (431, 431), "fsmount": (432, 432),
    "fspick": (433, 433), "mount_setattr": (442, 442), "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265),
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282), "seccomp": (317, 277),
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219), "memfd_create": (319, 279),
    "memfd_secret": (447, 447), "shmget": (29, 194), "shmat": (30, 196), "shmctl": (31, 195),
    "msgget": (68, 186), "semget": (64, 190), "mq_open": (240, 180), "init_module": (175, 105),
    "finit_module": (313, 273), "delete_module": (176, 106), "kexec_load": (246, 104), "kexec_file_load": (320, 294),
    "reboot": (169, 142), "swapon": (167, 224), "swapoff": (168, 225), "acct": (163, 89), "quotactl": (179, 60),
    "sethostname": (170, 161), "setdomainname": (171, 162), "syslog": (103, 116), "iopl": (172, -1),
    "ioperm": (173, -1), "settimeofday": (164, 170), "clock_settime": (227, 112), "adjtimex": (159, 171),
    "clock_adjtime": (305, 266), "personality": (135, 92), "setpriority": (141, 140), "ioprio_set": (251, 30),
    "sched_setaffinity": (203, 122), "sched_setscheduler": (144, 119), "sched_setparam": (142, 118),
    "sched_setattr": (314, 274), "migrate_pages": (256, 238), "move_pages": (279, 239), "vhangup": (153, 58),
    "fanotify_init": (300, 262), "inotify_init1": (294, 26), "setuid": (105, 146), "setgid": (106, 144),
    "setresuid": (117, 147), "setresgid": (119, 149), "setreuid": (113, 145), "setregid": (114, 143),
    "setgroups": (116, 159), "capset": (126, 91), "setsid": (112, 157), "setpgid": (109, 154),
}  # fmt: skip
_PRLIMIT = (302, 261)
_FCNTL = (72, 25)
_F_SETOWN = (8, 15, 10)
"""F_SETOWN, F_SETOWN_EX, F_SETSIG: a signal to another process in disguise."""


class Locked(Exception):
    """The filter could not be put in place; nothing may run."""


def system_call_filter() -> bytes:
    """A classic BPF program for this machine: forbidden calls answer EPERM, all others pass.

    Raises:
        Locked: there is no table for this machine.
    """
    machine = os.uname().machine
    if machine not in _MACHINES:
        raise Locked(f"no system call filter for a {machine}")
    column = list(_MACHINES).index(machine)

    def op(code: int, k: int, yes: int = 0, no: int = 0) -> bytes:
        return struct.pack("HBBI", code, yes, no, k & 0xFFFFFFFF)

    load, equal, at_least, give = 0x20, 0x15, 0x35, 0x06
    allow, refuse, die = 0x7FFF0000, 0x00050001, 0x80000000
    # A foreign calling convention has other numbers: whoever uses one is ended.
    lines = [op(load, 4), op(equal, _MACHINES[machine], 1, 0), op(give, die), op(load, 0)]
    if machine == "x86_64":
        lines += [op(at_least, 0x40000000, 0, 1), op(give, die)]
    for numbers in _FORBIDDEN.values():
        if numbers[column] >= 0:
            lines += [op(equal, numbers[column], 0, 1), op(give, refuse)]
    # prlimit on oneself alone: its first argument is 0.
    lines += [op(equal, _PRLIMIT[column], 0, 4), op(load, 16), op(equal, 0, 1, 0), op(give, refuse), op(load, 0)]
    count = len(_F_SETOWN)
    lines += [op(equal, _FCNTL[column], 0, 1 + count), op(load, 24)]
    lines += [op(equal, command, count - place, 0) for place, command in enumerate(_F_SETOWN)]
    lines += [op(give, allow), op(give, refuse)]
    return b"".join(lines)


_KERNEL = ctypes.CDLL(None, use_errno=True)


class _Program(ctypes.Structure):
    _fields_ = (("count", ctypes.c_ushort), ("lines", ctypes.c_char_p))


def lock(limits: dict[str, Any], system_calls: bytes) -> None:
    """Put the limits and the filter on this process, for good.

    Raises:
        Locked: the kernel refused the filter.
    """
    cpu_s = int(limits["test_s"]) + 2
    for what, most in (
        (resource.RLIMIT_CPU, cpu_s),
        (resource.RLIMIT_AS, limits["memory_bytes"]),
        (resource.RLIMIT_FSIZE, limits["output_bytes"] + 1),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_NOFILE, 16),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
    ):
        resource.setrlimit(what, (most, most))
    program = _Program(len(system_calls) // 8, system_calls)
    no_new_privileges, set_filter, by_program = 38, 22, 2
    _KERNEL.prctl(no_new_privileges, 1, 0, 0, 0)
    if _KERNEL.prctl(set_filter, by_program, ctypes.byref(program), 0, 0):
        raise Locked(f"the kernel took no system call filter: {os.strerror(ctypes.get_errno())}")
