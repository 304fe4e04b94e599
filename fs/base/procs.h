/* procs.h: which processes use a mount, from /proc, without touching the filesystem behind it; and how to signal one of them
 * without ever meeting another that has its number by now. Any thread. */
#ifndef DMT_BASE_PROCS_H
#define DMT_BASE_PROCS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct dmt_proc {
    pid_t pid;
    uint64_t born;     /* start time in ticks, as /proc/PID/stat gives it: with pid the name of the process */
    bool spared;       /* the caller, one of its ancestors, or of its pipeline (where the shell has job control) */
    bool stopped;      /* every thread is stopped (or traced) already */
    char command[128]; /* command line, blanks between the words; the kernel's short name if it has none */
    char file[256];    /* one of the files: open, mapped, program; or working or root directory */
};

/* The processes that have a file of the filesystem `dev` (as statx gives it) open or mapped, or their program, working or root
 * directory on it. Left out: process 1, kernel threads, Dumont's own programs, and what /proc does not show (other PID
 * namespaces, no right). caller: the process that asks, 0 = none. Number of processes, *ret owned by the caller; < 0. */
int dmt_procs_using(uint64_t dev, pid_t caller, struct dmt_proc **ret);

enum dmt_proc_state { DMT_PROC_GONE, DMT_PROC_RUNS, DMT_PROC_STOPPED };
/* STOPPED only when all of its threads are: one that waits in the kernel stops when it leaves it. */
enum dmt_proc_state dmt_proc_state(pid_t pid, uint64_t born);
/* 0; -ESRCH when that process is gone, whoever has its number now. */
int dmt_proc_signal(pid_t pid, uint64_t born, int sig);

#endif
