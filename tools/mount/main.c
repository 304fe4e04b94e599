/* main.c: mount.dumont, umount.dumont (the same program, told apart by its name) and the messages
 * they print.
 *
 * mount(8) runs it for type dumont; fuse.dumont and umount.fuse.dumont are links to it. Each
 * failure is one sentence on stderr, with a second line that says what to do, and the exit code of
 * mount(8). Signals only set a flag: whoever waits looks at it.
 */
#include "tools/mount/mount.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>

const char *program = "mount.dumont";
volatile sig_atomic_t mount_stop;

int complain(int code, const struct dmt_err *err)
{
    (void)fprintf(stderr, "%s: %s\n", program, err->msg[0] ? err->msg : dmt_strerror(err->code));
    if (err->hint[0])
        (void)fprintf(stderr, "%*s  %s\n", (int)strlen(program), "", err->hint);
    return code;
}

int complain_text(int code, const char *hint, const char *fmt, ...)
{
    struct dmt_err err = {0};
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(err.msg, sizeof(err.msg), fmt, ap);
    va_end(ap);
    if (hint)
        (void)snprintf(err.hint, sizeof(err.hint), "%s", hint);
    return complain(code, &err);
}

static void on_signal(int sig)
{
    (void)sig;
    mount_stop = 1;
}

int main(int argc, char **argv)
{
    const char *base = argc > 0 && strrchr(argv[0], '/') ? strrchr(argv[0], '/') + 1 : argv[0];
    struct sigaction sa = {.sa_handler = on_signal};

    (void)sigaction(SIGINT, &sa, NULL);
    (void)sigaction(SIGTERM, &sa, NULL);
    (void)sigaction(SIGHUP, &sa, NULL);
    (void)signal(SIGPIPE, SIG_IGN);
    if (base && strncmp(base, "umount", 6) == 0) {
        program = "umount.dumont";
        return umount_main(argc, argv);
    }
    return mount_main(argc, argv);
}
