"""The default seccomp profile: what a container may ask of the kernel unless told otherwise.

The verdicts are those of Docker's default profile (github.com/moby/profiles, seccomp v0.2.3, the one of
Docker 29): an allow-list, everything else is EPERM. It is stricter than Docker 28.5's in the socket call only:
AF_ALG is refused too, and AF_VSOCK also with a dirty register. tests/spec/test_seccomp_default.py compares.
"""

from cais.spec.seccomp import Choice, Condition, Profile, Rule

# Calls that act on the caller's own processes, files and sockets only, or that the kernel guards by a
# capability. Left out on purpose: io_uring_* (a long row of kernel holes, and no filter sees what it
# does), keyctl, add_key and request_key (keys know no namespaces), userfaultfd, kexec_*,
# swapon and nfsservctl, and what the rules below give to capabilities only.
ALWAYS = """
_llseek _newselect accept accept4 access adjtimex alarm bind brk cachestat capget capset chdir chmod
chown chown32 clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime
clock_gettime64 clock_nanosleep clock_nanosleep_time64 close close_range connect copy_file_range creat
dup dup2 dup3 epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait
epoll_wait_old eventfd eventfd2 execve execveat exit exit_group faccessat faccessat2 fadvise64
fadvise64_64 fallocate fanotify_mark fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl
fcntl64 fdatasync fgetxattr flistxattr flock fork fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs
fstatfs64 fsync ftruncate ftruncate64 futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake
futimesat get_robust_list get_thread_area getcpu getcwd getdents getdents64 getegid getegid32 geteuid
geteuid32 getgid getgid32 getgroups getgroups32 getitimer getpeername getpgid getpgrp getpid getppid
getpriority getrandom getresgid getresgid32 getresuid getresuid32 getrlimit getrusage getsid getsockname
getsockopt gettid gettimeofday getuid getuid32 getxattr getxattrat inotify_add_watch inotify_init
inotify_init1 inotify_rm_watch io_cancel io_destroy io_getevents io_pgetevents io_pgetevents_time64
io_setup io_submit ioctl ioprio_get ioprio_set ipc kill landlock_add_rule landlock_create_ruleset
landlock_restrict_self lchown lchown32 lgetxattr link linkat listen listmount listxattr listxattrat
llistxattr lremovexattr lseek lsetxattr lstat lstat64 madvise map_shadow_stack membarrier memfd_create
memfd_secret mincore mkdir mkdirat mknod mknodat mlock mlock2 mlockall mmap mmap2 mprotect mq_getsetattr
mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink
mremap mseal msgctl msgget msgrcv msgsnd msync munlock munlockall munmap name_to_handle_at nanosleep
newfstatat open openat openat2 pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free
pkey_mprotect poll ppoll ppoll_time64 prctl pread64 preadv preadv2 prlimit64 process_mrelease pselect6
pselect6_time64 pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv recv recvfrom
recvmmsg recvmmsg_time64 recvmsg remap_file_pages removexattr removexattrat rename renameat renameat2
restart_syscall riscv_hwprobe rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo
rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo
sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr sched_getparam
sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity sched_setattr
sched_setparam sched_setscheduler sched_yield seccomp select semctl semget semop semtimedop
semtimedop_time64 send sendfile sendfile64 sendmmsg sendmsg sendto set_robust_list set_thread_area
set_tid_address setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 setitimer
setpgid setpriority setregid setregid32 setresgid setresgid32 setresuid setresuid32 setreuid setreuid32
setrlimit setsid setsockopt setuid setuid32 setxattr setxattrat shmat shmctl shmdt shmget shutdown
sigaltstack signalfd signalfd4 sigprocmask sigreturn socketcall socketpair splice stat stat64 statfs
statfs64 statmount statx symlink symlinkat sync sync_file_range syncfs sysinfo tee tgkill time
timer_create timer_delete timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64
timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64 times tkill truncate
truncate64 ugetrlimit umask uname unlink unlinkat uretprobe utime utimensat utimensat_time64 utimes
vfork vmsplice wait4 waitid waitpid write writev
"""

# Namespaces a process may not make by clone: all seven CLONE_NEW… flags of clone(2) but CLONE_NEWTIME
# (which clone cannot take).
NAMESPACES = 0x7E020000

# personality(2): PER_LINUX, PER_LINUX32, with and without UNAME26, and the question which one is in
# force. Not ADDR_NO_RANDOMIZE, READ_IMPLIES_EXEC and the like, which undo hardening.
PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)

# Socket families: AF_VSOCK (40) knows no namespaces and reaches the hypervisor; AF_ALG (38) opens the kernel's
# crypto code. Above 40 they are listed one by one, because "greater than 40" would hold for 40 with a bit set in
# the upper half of the register, which a filter sees and the kernel ignores. No kernel has 48 and more.
SOCKETS = (("SCMP_CMP_LT", 38), ("SCMP_CMP_EQ", 39), *(("SCMP_CMP_EQ", family) for family in range(41, 48)))

ENOSYS = 38

# What a capability opens beside: the kernel asks for it anyway, and the container holds it only on
# request (all but CAP_SYS_CHROOT).
BY_CAPABILITY = {
    "CAP_DAC_READ_SEARCH": "open_by_handle_at",
    "CAP_SYS_ADMIN": "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie"
    " lsm_get_self_attr lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount open_tree"
    " perf_event_open quotactl quotactl_fd setdomainname sethostname setns syslog umount umount2 unshare",
    "CAP_SYS_BOOT": "reboot",
    "CAP_SYS_CHROOT": "chroot",
    "CAP_SYS_MODULE": "delete_module init_module finit_module",
    "CAP_SYS_PACCT": "acct",
    "CAP_SYS_PTRACE": "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace",
    "CAP_SYS_RAWIO": "iopl ioperm",
    "CAP_SYS_TIME": "settimeofday stime clock_settime clock_settime64",
    "CAP_SYS_TTY_CONFIG": "vhangup",
    "CAP_SYS_NICE": "get_mempolicy mbind set_mempolicy set_mempolicy_home_node",
    "CAP_SYSLOG": "syslog",
    "CAP_BPF": "bpf",
    "CAP_PERFMON": "perf_event_open",
}

BY_ARCHITECTURE = {
    ("ppc64le",): "sync_file_range2 swapcontext",
    ("arm", "arm64"): "arm_fadvise64_64 arm_sync_file_range sync_file_range2 breakpoint cacheflush set_tls",
    ("amd64", "x32"): "arch_prctl",
    ("amd64", "x32", "x86"): "modify_ldt",
    ("s390", "s390x"): "s390_pci_mmio_read s390_pci_mmio_write s390_runtime_instr",
    ("riscv64",): "riscv_flush_icache",
}

ADMIN = Choice(caps=("CAP_SYS_ADMIN",))
S390 = ("s390", "s390x")

RULES = (
    Rule(tuple(ALWAYS.split())),
    # Before 4.8 a tracer could change a call after seccomp had looked at it (seccomp(2), ptrace).
    Rule(("process_vm_readv", "process_vm_writev", "ptrace"), includes=Choice(min_kernel=(4, 8))),
    *(Rule(("socket",), conditions=(Condition(0, operator, family),)) for operator, family in SOCKETS),
    *(Rule(("personality",), conditions=(Condition(0, "SCMP_CMP_EQ", each),)) for each in PERSONALITIES),
    *(
        Rule(tuple(names.split()), includes=Choice(arches=arches))
        for arches, names in BY_ARCHITECTURE.items()
    ),
    *(Rule(tuple(names.split()), includes=Choice(caps=(cap,))) for cap, names in BY_CAPABILITY.items()),
    # clone without new namespaces; its flags are the first argument, on s390 the second.
    Rule(
        ("clone",),
        conditions=(Condition(0, "SCMP_CMP_MASKED_EQ", NAMESPACES),),
        excludes=Choice(caps=ADMIN.caps, arches=S390),
    ),
    Rule(
        ("clone",),
        conditions=(Condition(1, "SCMP_CMP_MASKED_EQ", NAMESPACES),),
        includes=Choice(arches=S390),
        excludes=ADMIN,
    ),
    # clone3 has its flags in memory, where a filter cannot look: "no such call", and C libraries fall
    # back to clone.
    Rule(("clone3",), action="SCMP_ACT_ERRNO", errno=ENOSYS, excludes=ADMIN),
)

ARCH_MAP = tuple(
    (f"SCMP_ARCH_{native}", tuple(f"SCMP_ARCH_{other}" for other in others.split()))
    for native, others in {
        "X86_64": "X86 X32",
        "AARCH64": "ARM",
        "MIPS64": "MIPS MIPS64N32",
        "MIPS64N32": "MIPS MIPS64",
        "MIPSEL64": "MIPSEL MIPSEL64N32",
        "MIPSEL64N32": "MIPSEL MIPSEL64",
        "S390X": "S390",
        "RISCV64": "",
        "LOONGARCH64": "",
    }.items()
)

DEFAULT_PROFILE = Profile(default_action="SCMP_ACT_ERRNO", rules=RULES, arch_map=ARCH_MAP)
