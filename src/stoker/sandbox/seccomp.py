"""The system calls a sandbox may make: an allow list, as a value of the OCI specification.

Owns the table, grouped by what a call is for, and the reasons for what is left out. What is not named
fails with EPERM. In the spirit of Moby's default profile for a container without capabilities, and
narrower where neither Node nor Python nor an ordinary native module needs a call. Does not know which
runtime compiles it.

Deliberately absent: mount and its new family, unshare, setns, chroot (namespaces); ptrace, process_vm_*,
pidfd_getfd, kcmp (other processes); bpf, perf_event_open, userfaultfd, io_uring, io_setup, keyctl,
vmsplice, modify_ldt, personality (the kernel's own history of holes); clock_settime, reboot, swapon,
init_module, kexec, sync (the machine); name_to_handle_at, open_by_handle_at, quotactl, fanotify (file
systems).
"""

from __future__ import annotations

from typing import Any

EPERM = 1
ENOSYS = 38

_FILES = """
access chdir chmod chown close close_range copy_file_range creat dup dup2 dup3 faccessat faccessat2
fadvise64 fallocate fchdir fchmod fchmodat fchmodat2 fchown fchownat fcntl fdatasync fgetxattr flistxattr
flock fremovexattr fsetxattr fstat fstatfs fsync ftruncate futimesat getcwd getdents getdents64 getxattr
inotify_add_watch inotify_init inotify_init1 inotify_rm_watch lchown lgetxattr link linkat listxattr
llistxattr lremovexattr lseek lsetxattr lstat mkdir mkdirat newfstatat open openat openat2 pipe pipe2
pread64 preadv preadv2 pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv removexattr
rename renameat renameat2 rmdir sendfile setxattr splice stat statfs statx symlink symlinkat
sync_file_range syncfs tee truncate umask unlink unlinkat utime utimensat utimes write writev
"""
_MEMORY = """
brk madvise membarrier memfd_create mincore mlock mlock2 mlockall mmap mprotect mremap mseal msync munlock
munlockall munmap pkey_alloc pkey_free pkey_mprotect
"""
_PROCESSES = """
arch_prctl capget capset execve execveat exit exit_group fork get_robust_list get_thread_area getcpu
getegid geteuid getgid getgroups getpgid getpgrp getpid getppid getpriority getresgid getresuid
getrlimit getrusage getsid gettid getuid ioprio_get ioprio_set kill pause pidfd_open pidfd_send_signal
prctl prlimit64 restart_syscall rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo
rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo sched_get_priority_max
sched_get_priority_min sched_getaffinity sched_getattr sched_getparam sched_getscheduler
sched_rr_get_interval sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield
set_robust_list set_thread_area set_tid_address setfsgid setfsuid setgid setgroups setpgid setpriority
setregid setresgid setresuid setreuid setrlimit setsid setuid sigaltstack tgkill tkill vfork wait4 waitid
"""
_WAITING = """
epoll_create epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 epoll_wait eventfd eventfd2 futex
futex_requeue futex_wait futex_waitv futex_wake nanosleep poll ppoll pselect6 select signalfd signalfd4
"""
_TIME = """
adjtimex alarm clock_adjtime clock_getres clock_gettime clock_nanosleep getitimer gettimeofday setitimer
time timer_create timer_delete timer_getoverrun timer_gettime timer_settime timerfd_create
timerfd_gettime timerfd_settime times
"""
_SOCKETS = """
accept accept4 bind connect getpeername getsockname getsockopt listen setsockopt shutdown
"""
_SHARING = """
mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedsend mq_unlink msgctl msgget msgrcv msgsnd semctl
semget semop semtimedop shmat shmctl shmdt shmget
"""
_REST = "getrandom sysinfo uname"

_NAMESPACE_FLAGS = 0x7E020000
"""CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID and NEWNET of the raw clone."""

_AF_UNIX, _AF_INET, _AF_INET6 = 1, 2, 10
_SOCKET_KINDS = (
    (_AF_UNIX, 0),
    (_AF_UNIX, 1),
    *((family, protocol) for family in (_AF_INET, _AF_INET6) for protocol in (0, 6, 17)),
)
"""Family and protocol: local sockets, TCP and UDP. No SCTP, MPTCP, raw, NETLINK, VSOCK, PACKET, ALG."""

_MSG_OOB = 0x1
_TRANSFERS = (
    ("recvfrom", 3),
    ("recvmmsg", 3),
    ("recvmsg", 2),
    ("sendmmsg", 3),
    ("sendmsg", 2),
    ("sendto", 3),
)
"""Where the flags stand. Out-of-band bytes are refused: on a local socket, which the wire is, they have a
history of holes of their own (CVE-2025-38236)."""

_IOCTLS = (
    0x5401,  # TCGETS: isatty
    0x5402,  # TCSETS
    0x5403,  # TCSETSW
    0x5404,  # TCSETSF
    0x540F,  # TIOCGPGRP
    0x5411,  # TIOCOUTQ
    0x5413,  # TIOCGWINSZ
    0x541B,  # FIONREAD
    0x5421,  # FIONBIO
    0x5450,  # FIONCLEX
    0x5451,  # FIOCLEX
    0x5452,  # FIOASYNC
    0x8910,  # SIOCGIFNAME
    0x8912,  # SIOCGIFCONF
    0x8913,  # SIOCGIFFLAGS
    0x8915,  # SIOCGIFADDR
    0x891B,  # SIOCGIFNETMASK
    0x8927,  # SIOCGIFHWADDR
    0x8933,  # SIOCGIFINDEX
    0x40049409,  # FICLONE
    0x80086601,  # FS_IOC_GETFLAGS
)
"""By name, as a rule "all but TIOCSTI" cannot be said: the kernel ignores the upper half of the number,
and libseccomp compares it."""

_S_IFMT, _S_IFIFO = 0o170000, 0o010000
_INT = 0xFFFFFFFF
"""The kernel reads the lower half of these arguments only, so that is what must be compared."""


def profile() -> dict[str, Any]:
    """Return `linux.seccomp` of a bundle. No architecture is named, so only the native one passes; a
    call through another one (32 bit, x32) kills its process."""
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": EPERM,
        "syscalls": [
            {"names": plain_calls(), "action": "SCMP_ACT_ALLOW"},
            _allow(["clone"], (0, _NAMESPACE_FLAGS, 0)),
            # glibc then falls back to clone, whose flags a filter can see.
            {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": ENOSYS},
            *(_allow(["socket"], (0, _INT, family), (2, _INT, proto)) for family, proto in _SOCKET_KINDS),
            *(_allow([name], (index, _MSG_OOB, 0)) for name, index in _TRANSFERS),
            _allow(["socketpair"], (0, _INT, _AF_UNIX)),
            *(_allow(["ioctl"], (1, _INT, number)) for number in _IOCTLS),
            # Named pipes are ordinary; device nodes are not.
            _allow(["mknod"], (1, _S_IFMT, _S_IFIFO)),
            _allow(["mknodat"], (2, _S_IFMT, _S_IFIFO)),
        ],
    }


def plain_calls() -> list[str]:
    """Return the calls that are allowed whatever their arguments."""
    groups = (_FILES, _MEMORY, _PROCESSES, _WAITING, _TIME, _SOCKETS, _SHARING, _REST)
    return [name for group in groups for name in group.split()]


def _allow(names: list[str], *masked: tuple[int, int, int]) -> dict[str, Any]:
    """A rule that holds where each argument `index`, cut to `mask`, equals `value`."""
    return {
        "names": names,
        "action": "SCMP_ACT_ALLOW",
        "args": [
            {"index": index, "value": mask, "valueTwo": value, "op": "SCMP_CMP_MASKED_EQ"}
            for index, mask, value in masked
        ],
    }
