/* places.c: where things of a workspace are on this machine: configuration, store, socket, mount.
 * Reads only. One thread. A workspace exists here when it has a configuration file or a store; it
 * runs here when its socket answers.
 */
#include <dirent.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "fs/base/limits.h"
#include "fs/base/mountinfo.h"
#include "fs/base/options.h"
#include "tools/dumont.h"

bool ws_name_valid(const char *name)
{
    return dmt_workspace_name_check(name, NULL) == 0;
}

void ws_conf_path(const char *name, char path[4096])
{
    snprintf(path, 4096, "%s/workspaces/%s.conf", dmt_dir_etc(), name);
}

void ws_sock_path(const char *name, char path[108])
{
    snprintf(path, 108, "%s/%s.sock", dmt_dir_run(), name);
}

void ws_stopped_path(const char *name, char path[4096])
{
    snprintf(path, 4096, "%s/%s.stopped", dmt_dir_run(), name);
}

int ws_load(const char *name, struct dmt_conf **ret_conf, char store[4096], struct dmt_err *err)
{
    char path[4096], db[4200];
    int rc = dmt_workspace_name_check(name, err);
    if (rc != 0)
        return DMT_E_CONFIG;
    struct dmt_conf *c = dmt_conf_new();
    ws_conf_path(name, path);
    rc = dmt_conf_load(c, path, err);
    if (rc != 0 && rc != -ENOENT) {
        dmt_conf_free(c);
        return rc;
    }
    const char *s = dmt_conf_get(c, "store");
    if (s)
        snprintf(store, 4096, "%s", s);
    else
        snprintf(store, 4096, "%s/%s", dmt_dir_state(), name);
    snprintf(db, sizeof db, "%s/workspace.db", store);
    if (rc == -ENOENT && access(db, F_OK) != 0) {
        dmt_conf_free(c);
        dmt_err_set(err, -ENOENT, "there is no workspace \"%s\" on this machine", name);
        return dmt_err_hint(
            err,
            "Create it with: dumont workspace create %s   (dumont workspace list shows what there is)",
            name);
    }
    *ret_conf = c;
    if (err)
        memset(err, 0, sizeof *err);
    return 0;
}

struct names {
    char (*v)[65];
    size_t n, cap;
};

static void names_add(struct names *ns, const char *name)
{
    if (!ws_name_valid(name))
        return;
    for (size_t i = 0; i < ns->n; i++)
        if (strcmp(ns->v[i], name) == 0)
            return;
    if (ns->n == ns->cap) {
        size_t cap = ns->cap ? ns->cap * 2 : 16;
        void *v = realloc(ns->v, cap * sizeof *ns->v);
        if (!v)
            return;
        ns->v = v;
        ns->cap = cap;
    }
    snprintf(ns->v[ns->n++], sizeof *ns->v, "%.64s", name);
}

/* Adds NAME for each NAME+suffix in dir; with inside != NULL only where dir/NAME/inside exists. */
static void names_scan(struct names *ns, const char *dir, const char *suffix, const char *inside)
{
    DIR *d = opendir(dir);
    if (!d)
        return;
    for (struct dirent *e; (e = readdir(d));) {
        char name[256], path[4600];
        size_t n = strlen(e->d_name), k = strlen(suffix);
        if (n <= k || n - k > DMT_WS_NAME_MAX || strcmp(e->d_name + n - k, suffix) != 0)
            continue;
        snprintf(name, sizeof name, "%.*s", (int)(n - k), e->d_name);
        snprintf(path, sizeof path, "%s/%s/%s", dir, e->d_name, inside ? inside : "");
        if ((inside && access(path, F_OK) != 0) || strcmp(name, "dumontd") == 0)
            continue;
        names_add(ns, name);
    }
    closedir(d);
}

static int name_cmp(const void *a, const void *b)
{
    return strcmp(a, b);
}

int ws_each(int (*fn)(void *ctx, const char *name), void *ctx)
{
    struct names ns = {0};
    int rc = 0;
    char conf_dir[4096];
    snprintf(conf_dir, sizeof conf_dir, "%s/workspaces", dmt_dir_etc());
    names_scan(&ns, conf_dir, ".conf", NULL);
    names_scan(&ns, dmt_dir_state(), "", "workspace.db");
    names_scan(&ns, dmt_dir_run(), ".sock", NULL);
    if (ns.n)
        qsort(ns.v, ns.n, sizeof *ns.v, name_cmp);
    for (size_t i = 0; i < ns.n && rc == 0; i++)
        rc = fn(ctx, ns.v[i]);
    free(ns.v);
    return rc;
}

int ws_of_path(const char *path, char name[65], char inside[4096], struct dmt_err *err)
{
    char real[PATH_MAX], line[16384];
    struct dmt_mount m;
    size_t best = 0;
    name[0] = '\0';
    if (!realpath(path, real)) {
        dmt_err_set(err, -errno, "%s: %s", path, strerror(errno));
        return dmt_err_hint(err, "Give the path of a file in a mounted workspace.");
    }
    FILE *f = fopen("/proc/self/mountinfo", "re");
    if (!f)
        return dmt_err_set(err, -errno, "cannot read /proc/self/mountinfo");
    while (fgets(line, sizeof line, f)) {
        line[strcspn(line, "\n")] = '\0';
        if (!dmt_mountinfo_parse(line, &m))
            continue;
        size_t n = strcmp(m.dir, "/") == 0 ? 0 : strlen(m.dir);
        if (strncmp(real, m.dir, n) != 0 || (real[n] != '/' && real[n] != '\0') || n < best)
            continue;
        best = n;
        snprintf(name, 65, "%s", m.workspace);
        snprintf(inside, 4096, "%s", real[n] ? real + n : "/");
    }
    fclose(f);
    if (!name[0]) {
        dmt_err_set(err, -ENOENT, "%s is not in a mounted Dumont workspace", path);
        dmt_err_hint(err, "`dumont status` shows which workspaces are mounted, and where.");
        return CALL_ABSENT;
    }
    return 0;
}
