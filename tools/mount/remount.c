/* remount.c: mount -o remount,ro|rw. The kernel does it alone: read-only is a matter of its own for
 * FUSE, the workspace goes on. Other options of Dumont cannot change while mounted and are said to
 * be so only when asked for explicitly (mount(8) repeats all it knows).
 */
#include "tools/mount/mount.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include "fs/base/mountinfo.h"

/* Is `word` in the comma list? */
static bool listed(const char *list, const char *word)
{
    size_t n = strlen(word);
    for (const char *s = list; s && *s;) {
        size_t len = strcspn(s, ",");
        if (len == n && strncmp(s, word, n) == 0)
            return true;
        s += len;
        s += *s == ',';
    }
    return false;
}

/* A flag that the options do not speak of stays as it is. */
static unsigned long keep_or(const struct mount_args *a, const struct dmt_mount *m, const char *on,
                             const char *off, unsigned long bit)
{
    if (dmt_conf_get(a->options, on))
        return bit;
    if (dmt_conf_get(a->options, off))
        return 0;
    return listed(m->options, on) ? bit : 0;
}

int mount_remount(const struct mount_args *a)
{
    struct dmt_mount *m = calloc(1, sizeof(*m));
    char real[PATH_MAX];
    int rc = EX_OK;

    if (!m)
        return complain_text(EX_SYSERR, NULL, "out of memory");
    if (!realpath(a->dir_given, real) || dmt_mountinfo_at(real, m) != 1 ||
        strcmp(m->workspace, a->name) != 0) {
        rc = complain_text(EX_FAIL, "without remount it is mounted", "%s is not mounted on %s",
                           a->name, a->dir_given);
    } else if (!a->fake) {
        unsigned long flags = MS_REMOUNT | MS_NOATIME;
        flags |= dmt_conf_get(a->options, "ro")   ? MS_RDONLY
                 : dmt_conf_get(a->options, "rw") ? 0
                 : m->ro                          ? MS_RDONLY
                                                  : 0;
        flags |= keep_or(a, m, "nosuid", "suid", MS_NOSUID);
        flags |= keep_or(a, m, "nodev", "dev", MS_NODEV);
        flags |= keep_or(a, m, "noexec", "exec", MS_NOEXEC);
        if (mount(m->source, real, m->type, flags, "") < 0)
            rc = complain_text(
                EX_FAIL,
                errno == EBUSY ? "files are open for writing: fuser -vm DIR shows by whom" : NULL,
                "remount of %s failed: %s", real, strerror(errno));
    }
    free(m);
    return rc;
}
