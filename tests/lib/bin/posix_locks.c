/* posix_locks.c: fcntl, open-file-description and flock locks (see tests/lib/posix.h).
 *
 * Owns nothing. Two processes, or two descriptions in one, want the same range: who holds it, who
 * is told, what releases it. Locks are the kernel's on this filesystem; what is shown is that
 * nothing is in their way. Thread: main. */
#include "tests/lib/posix.h"

#include <sys/file.h>

static int fd;

static int lock(int f, int cmd, short type, off_t from, off_t len)
{
    struct flock l = {.l_type = type, .l_whence = SEEK_SET, .l_start = from, .l_len = len};
    return fcntl(f, cmd, &l);
}

static void child_sees_conflict(void)
{
    struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = 100};
    int f = open("f", O_RDWR);
    WANT(f >= 0);
    FAILS(lock(f, F_SETLK, F_WRLCK, 50, 10), EAGAIN);
    FAILS(lock(f, F_SETLK, F_RDLCK, 50, 10), EAGAIN);
    WANT(lock(f, F_SETLK, F_WRLCK, 100, 10) == 0);
    WANT(fcntl(f, F_GETLK, &l) == 0 && l.l_type == F_WRLCK && l.l_pid == getppid());
    WANT(l.l_start == 0 && l.l_len == 40);
}

static void child_locks_all(void)
{
    int f = open("f", O_RDWR);
    WANT(f >= 0 && lock(f, F_SETLK, F_WRLCK, 0, 0) == 0);
}

static void fcntl_ranges(void)
{
    WANT((fd = posix_file("f", "0123456789", 10)) >= 0);
    WANT(lock(fd, F_SETLK, F_WRLCK, 0, 100) == 0);
    WANT(lock(fd, F_SETLK, F_UNLCK, 40, 10) == 0); /* splits it */
    WANT(posix_child(0, child_sees_conflict));
    int second = open("f", O_RDONLY);
    WANT(second >= 0 && close(second) == 0); /* any close lets go of all of them */
    WANT(posix_child(0, child_locks_all));
}

static void child_wants_read(void)
{
    int f = open("f", O_RDWR);
    WANT(f >= 0 && lock(f, F_SETLK, F_RDLCK, 0, 0) == 0);
    FAILS(lock(f, F_SETLK, F_WRLCK, 0, 0), EAGAIN);
}

static void fcntl_shared(void)
{
    WANT((fd = posix_file("f", "x", 1)) >= 0);
    WANT(lock(fd, F_SETLK, F_RDLCK, 0, 0) == 0);
    WANT(posix_child(0, child_wants_read));
    int ro = open("f", O_RDONLY);
    FAILS(lock(ro, F_SETLK, F_WRLCK, 0, 0), EBADF);
}

/* Each holds one byte and waits for the other's. */
static void fcntl_deadlock(void)
{
    int up[2], status;
    char c;
    WANT((fd = posix_file("f", "ab", 2)) >= 0 && pipe(up) == 0);
    WANT(lock(fd, F_SETLK, F_WRLCK, 0, 1) == 0);
    pid_t pid = fork();
    if (pid == 0) {
        int f = open("f", O_RDWR);
        if (lock(f, F_SETLK, F_WRLCK, 1, 1) < 0 || write(up[1], "x", 1) != 1)
            _exit(1);
        _exit(lock(f, F_SETLKW, F_WRLCK, 0, 1) == 0 ? 0 : 2);
    }
    WANT(pid > 0 && read(up[0], &c, 1) == 1);
    /* Whichever of the two waits last is told. */
    int mine = lock(fd, F_SETLKW, F_WRLCK, 1, 1), e = errno;
    WANT(mine == 0 || e == EDEADLK);
    WANT(lock(fd, F_SETLK, F_UNLCK, 0, 0) == 0);
    WANT(waitpid(pid, &status, 0) == pid && (mine == 0 ? status != 0 : status == 0));
}

static void ofd_locks(void)
{
    WANT((fd = posix_file("f", "0123456789", 10)) >= 0);
    int other = open("f", O_RDWR), again = dup(fd);
    WANT(other >= 0 && again >= 0);
    WANT(lock(fd, F_OFD_SETLK, F_WRLCK, 0, 5) == 0);
    FAILS(lock(other, F_OFD_SETLK, F_WRLCK, 0, 5), EAGAIN); /* in one process */
    WANT(lock(again, F_OFD_SETLK, F_WRLCK, 0, 5) == 0);     /* the same description */
    FAILS(lock(other, F_SETLK, F_WRLCK, 4, 1), EAGAIN);     /* kinds see each other */
    int third = open("f", O_RDWR);
    WANT(third >= 0 && close(third) == 0);
    FAILS(lock(other, F_OFD_SETLK, F_RDLCK, 0, 5), EAGAIN); /* a close elsewhere releases nothing */
    WANT(close(fd) == 0);
    FAILS(lock(other, F_OFD_SETLK, F_RDLCK, 0, 5), EAGAIN);
    WANT(close(again) == 0);
    WANT(lock(other, F_OFD_SETLK, F_WRLCK, 0, 5) == 0);
}

static void child_flock(void)
{
    int f = open("f", O_RDWR);
    WANT(f >= 0);
    FAILS(flock(f, LOCK_EX | LOCK_NB), EWOULDBLOCK);
    FAILS(flock(f, LOCK_SH | LOCK_NB), EWOULDBLOCK);
    WANT(flock(fd, LOCK_EX | LOCK_NB) == 0); /* inherited: its own */
}

static void flock_locks(void)
{
    WANT((fd = posix_file("f", "x", 1)) >= 0);
    int other = open("f", O_RDONLY);
    WANT(flock(fd, LOCK_EX) == 0);
    FAILS(flock(other, LOCK_SH | LOCK_NB), EWOULDBLOCK);
    WANT(posix_child(0, child_flock));
    WANT(flock(fd, LOCK_SH) == 0 && flock(other, LOCK_SH | LOCK_NB) == 0);
    FAILS(flock(fd, LOCK_EX | LOCK_NB), EWOULDBLOCK);
    WANT(flock(other, LOCK_UN) == 0 && flock(fd, LOCK_EX | LOCK_NB) == 0);
    int dir = open(".", O_RDONLY | O_DIRECTORY);
    WANT(dir >= 0 && flock(dir, LOCK_EX | LOCK_NB) == 0);
}

/* A lock that is waited for comes when its holder dies. */
static void released_by_death(void)
{
    int up[2], status;
    char c;
    WANT((fd = posix_file("f", "x", 1)) >= 0 && pipe(up) == 0);
    pid_t pid = fork();
    if (pid == 0) {
        int f = open("f", O_RDWR);
        if (flock(f, LOCK_EX) < 0 || lock(f, F_SETLK, F_WRLCK, 0, 0) < 0 ||
            write(up[1], "x", 1) != 1)
            _exit(1);
        for (;;)
            pause();
    }
    WANT(pid > 0 && read(up[0], &c, 1) == 1);
    FAILS(lock(fd, F_SETLK, F_WRLCK, 0, 0), EAGAIN);
    WANT(kill(pid, SIGKILL) == 0);
    WANT(lock(fd, F_SETLKW, F_WRLCK, 0, 0) == 0 && flock(fd, LOCK_EX) == 0);
    WANT(waitpid(pid, &status, 0) == pid);
}

static const struct posix_case cases[] = {
    {"fcntl_ranges", fcntl_ranges},     {"fcntl_shared", fcntl_shared},
    {"fcntl_deadlock", fcntl_deadlock}, {"ofd_locks", ofd_locks},
    {"flock_locks", flock_locks},       {"released_by_death", released_by_death},
};
POSIX_MAIN(cases)
