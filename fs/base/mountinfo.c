/* mountinfo.c: reads /proc/self/mountinfo.
 *
 * A line is "id parent maj:min root dir options [optional fields ...] - type source superoptions",
 * with space, tab, newline and backslash as octal escapes. Mounts are listed in the order they were
 * made, so of several at one place the last is on top. A Dumont mount is of type fuse.dumont with
 * the workspace's name as source, or of type fuseblk.dumont with RUN/dev/NAME as source. Failure:
 * no /proc (-ENOENT ...), told to the caller; a line that does not parse is skipped, since the
 * kernel may add to the format. Thread: any.
 */
#include "fs/base/mountinfo.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>

/* Undoes the octal escapes, into dst. False if it does not fit. */
static bool unescape(const char *src, char *dst, size_t size)
{
    size_t n = 0;
    for (; *src; src++) {
        if (n + 1 >= size)
            return false;
        if (src[0] == '\\' && src[1] >= '0' && src[1] <= '3' && src[2] >= '0' && src[2] <= '7' &&
            src[3] >= '0' && src[3] <= '7') {
            dst[n++] = (char)((src[1] - '0') * 64 + (src[2] - '0') * 8 + (src[3] - '0'));
            src += 3;
        } else {
            dst[n++] = *src;
        }
    }
    dst[n] = '\0';
    return true;
}

static bool has_ro(const char *options)
{
    return strncmp(options, "ro", 2) == 0 && (options[2] == '\0' || options[2] == ',');
}

/* The workspace that a mount shows, by type and source. */
static void name_workspace(struct dmt_mount *m)
{
    const char *name = NULL;
    if (strcmp(m->type, "fuse.dumont") == 0) {
        name = m->source;
    } else if (strcmp(m->type, "fuseblk.dumont") == 0) {
        name = strrchr(m->source, '/');
        if (name)
            name++;
    }
    m->workspace[0] = '\0';
    if (name && strlen(name) < sizeof(m->workspace))
        memcpy(m->workspace, name, strlen(name) + 1);
}

bool dmt_mountinfo_parse(const char *line, struct dmt_mount *ret)
{
    char *copy = strdup(line), *save = NULL, *word = NULL;
    unsigned maj = 0, min = 0;
    bool ok = false;
    int field = 0;

    if (!copy)
        return false;
    memset(ret, 0, sizeof(*ret));
    for (word = strtok_r(copy, " ", &save); word; word = strtok_r(NULL, " ", &save), field++) {
        if (field == 2 && sscanf(word, "%u:%u", &maj, &min) != 2)
            goto out;
        if (field == 4 && !unescape(word, ret->dir, sizeof(ret->dir)))
            goto out;
        if (field == 5)
            (void)snprintf(ret->options, sizeof(ret->options), "%s", word);
        if (field >= 6 && strcmp(word, "-") == 0)
            break;
    }
    if (!word)
        goto out;
    const char *type = strtok_r(NULL, " ", &save);
    const char *source = strtok_r(NULL, " ", &save);
    const char *super = strtok_r(NULL, " ", &save);
    if (!type || !source || !super)
        goto out;
    if (!unescape(type, ret->type, sizeof(ret->type)) ||
        !unescape(source, ret->source, sizeof(ret->source)))
        goto out;
    ret->dev = makedev(maj, min);
    ret->ro = has_ro(ret->options) || has_ro(super);
    name_workspace(ret);
    ok = true;
out:
    free(copy);
    return ok;
}

/* Calls want() for each mount; the last one it accepts stays in *ret. */
static int find(bool (*want)(const struct dmt_mount *m, const char *key), const char *key,
                struct dmt_mount *ret)
{
    FILE *f = fopen("/proc/self/mountinfo", "re");
    char *line = NULL;
    size_t cap = 0;
    int rc = 0;
    struct dmt_mount *one = malloc(sizeof(*one));

    if (!f || !one) {
        rc = one ? -errno : -ENOMEM;
        goto out;
    }
    while (getline(&line, &cap, f) > 0) {
        line[strcspn(line, "\n")] = '\0';
        if (dmt_mountinfo_parse(line, one) && want(one, key)) {
            *ret = *one;
            rc = 1;
        }
    }
out:
    free(line);
    free(one);
    if (f)
        fclose(f);
    return rc;
}

static bool at_dir(const struct dmt_mount *m, const char *dir)
{
    return strcmp(m->dir, dir) == 0;
}

static bool of_workspace(const struct dmt_mount *m, const char *name)
{
    return m->workspace[0] && strcmp(m->workspace, name) == 0;
}

int dmt_mountinfo_at(const char *dir, struct dmt_mount *ret)
{
    return find(at_dir, dir, ret);
}

int dmt_mountinfo_workspace(const char *name, struct dmt_mount *ret)
{
    return find(of_workspace, name, ret);
}
