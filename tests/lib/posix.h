/* posix.h: frame of the programs posix_*.c in tests/lib/bin: many small cases, each a claim about any good filesystem.
 *
 *   posix_NAME DIR [CASE...]
 *
 * Each case runs as a child process in a directory of its own below DIR, which is removed when it passed; a case that hangs is
 * ended after LIMIT_S (100) seconds. One line each: "ok CASE" or "not ok CASE: file:line: condition (errno)". Exit 0 if all
 * passed. They pass on ext4, too (NATIVE=1 tests/integration/25_posix.sh): what fails here and not there is ours. Thread: main; a
 * case may fork. */
#ifndef DMT_TEST_POSIX_H
#define DMT_TEST_POSIX_H

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#define CASE_LIMIT_S 100
#define NOBODY       65534

struct posix_case {
    const char *name;
    void (*fn)(void);
};

static char posix_why[512];

static inline void posix_fail(const char *file, int line, const char *what)
{
    int e = errno;
    if (!posix_why[0])
        (void)snprintf(posix_why, sizeof(posix_why), "%s:%d: %s (errno %d: %s)", file, line, what, e, strerror(e));
}

/* The case ends at the first condition that does not hold. Also in a child: see posix_child. */
#define WANT(cond)                                                                                                     \
    do {                                                                                                               \
        errno = 0;                                                                                                     \
        if (!(cond)) {                                                                                                 \
            posix_fail(__FILE__, __LINE__, #cond);                                                                     \
            return;                                                                                                    \
        }                                                                                                              \
    } while (0)
#define FAILS(call, code)                                                                                              \
    do {                                                                                                               \
        errno = 0;                                                                                                     \
        if ((call) != -1 || errno != (code)) {                                                                         \
            posix_fail(__FILE__, __LINE__, #call " does not fail with " #code);                                        \
            return;                                                                                                    \
        }                                                                                                              \
    } while (0)

/* Runs fn as a child process, as uid:uid without capabilities unless uid is 0; true if nothing in it failed. */
static inline bool posix_child(uid_t uid, void (*fn)(void))
{
    int status = 1;
    pid_t pid = fork();
    if (pid == 0) {
        if (uid && (setgroups(0, NULL) < 0 || setresgid(uid, uid, uid) < 0 || setresuid(uid, uid, uid) < 0))
            _exit(2);
        posix_why[0] = '\0';
        fn();
        if (posix_why[0])
            fprintf(stderr, "# in a child: %s\n", posix_why);
        _exit(posix_why[0] ? 1 : 0);
    }
    while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    return pid > 0 && status == 0;
}

/* A new file with these bytes; its descriptor, open for reading and writing. */
static inline int posix_file(const char *name, const void *p, size_t len)
{
    int fd = open(name, O_CREAT | O_RDWR | O_TRUNC, 0644);
    if (fd >= 0 && len > 0 && pwrite(fd, p, len, 0) != (ssize_t)len) {
        close(fd);
        return -1;
    }
    return fd;
}

static inline bool posix_reads(int fd, off_t off, const void *p, size_t len)
{
    char *buf = malloc(len + 1);
    bool same = buf && pread(fd, buf, len, off) == (ssize_t)len && memcmp(buf, p, len) == 0;
    free(buf);
    return same;
}

static inline bool posix_zeros(int fd, off_t off, size_t len)
{
    char *zeros = calloc(1, len + 1);
    bool same = zeros && posix_reads(fd, off, zeros, len);
    free(zeros);
    return same;
}

/* rm(1) gets below paths that no call takes in one piece. */
static bool posix_remove(const char *dir)
{
    int status = 1;
    pid_t pid = fork();
    if (pid == 0) {
        execlp("rm", "rm", "-r", dir, (char *)NULL);
        _exit(2);
    }
    return pid > 0 && waitpid(pid, &status, 0) == pid && status == 0;
}

static bool posix_run(const struct posix_case *c)
{
    int status = 1;
    fflush(stdout);
    if (mkdir(c->name, 0777) < 0 || chmod(c->name, 0777) < 0) {
        printf("not ok %s: mkdir: %s\n", c->name, strerror(errno));
        return false;
    }
    pid_t pid = fork();
    if (pid == 0) {
        (void)umask(022);
        (void)alarm(getenv("LIMIT_S") ? (unsigned)atoi(getenv("LIMIT_S")) : CASE_LIMIT_S);
        if (chdir(c->name) < 0)
            _exit(2);
        c->fn();
        if (posix_why[0])
            printf("not ok %s: %s\n", c->name, posix_why);
        else
            printf("ok %s\n", c->name);
        fflush(stdout);
        _exit(posix_why[0] ? 1 : 0);
    }
    while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    if (pid < 0 || WIFSIGNALED(status))
        printf("not ok %s: killed by signal %d\n", c->name, pid < 0 ? 0 : WTERMSIG(status));
    if (status == 0 && !posix_remove(c->name)) {
        printf("not ok %s: cannot be removed\n", c->name);
        return false;
    }
    return pid > 0 && status == 0;
}

static int posix_main(int argc, char **argv, const struct posix_case *cases, size_t n)
{
    bool good = true;
    if (argc < 2 || chdir(argv[1]) < 0) {
        fprintf(stderr, "usage: %s DIR [CASE...]\n", argv[0]);
        return 2;
    }
    for (size_t i = 0; i < n; i++) {
        bool wanted = argc == 2;
        for (int a = 2; a < argc; a++)
            wanted = wanted || strcmp(argv[a], cases[i].name) == 0;
        if (wanted)
            good = posix_run(&cases[i]) && good;
    }
    return good ? 0 : 1;
}

#define POSIX_MAIN(cases)                                                                                              \
    int main(int argc, char **argv)                                                                                    \
    {                                                                                                                  \
        return posix_main(argc, argv, cases, sizeof(cases) / sizeof(cases[0]));                                        \
    }

#endif
