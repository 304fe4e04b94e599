/* verb_workspace.c: `dumont workspace create|list|show|set|remove`: the configuration file and the
 * store of a workspace on this machine.
 *
 * create makes the store (identity, empty root) and the configuration file; with standby-role
 * options it makes only the configuration: the store of a standby is filled by its first
 * synchronisation. `create NEW --from URL` fills the store from an archive. remove asks for --yes
 * and refuses while the workspace runs. (stop, start, restart: workspace_stop.c.) One thread.
 */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "fs/archive/archive.h"
#include "fs/base/clock.h"
#include "fs/base/options.h"
#include "fs/base/owner.h"
#include "fs/store/store.h"
#include "tools/dumont.h"
#include "tools/restore.h"

static int make_store(const char *name, const char *store, const struct dmt_conf *c,
                      struct dmt_err *err)
{
    struct dmt_store_ident id;
    const struct dmt_clock *clk = dmt_clock_real();
    struct dmt_store_conf sc = {.io = dmt_io_real(), .clock = clk, .dir = store};
    memset(&id, 0, sizeof id);
    snprintf(id.name, sizeof id.name, "%s", name);
    dmt_random(id.lineage, sizeof id.lineage);
    dmt_random(id.store_id, sizeof id.store_id);
    int rc = dmt_io_mkdirs(sc.io, store, 0700);
    if (rc != 0)
        return dmt_err_set(err, rc, "cannot make %s: %s", store, dmt_strerror(rc));
    uint32_t uid = 0, gid = 0;
    const char *owner = dmt_conf_get(c, "owner");
    if (owner && (rc = dmt_owner_parse(owner, &uid, &gid, err)) != 0)
        return rc;
    /* A fresh root takes owner and mode of the mountpoint at its first mount; until then 0755. */
    return dmt_store_create(&sc, &id, S_IFDIR | 0755, uid, gid, clk->realtime_ns(clk->ctx), err);
}

/* key=value words into c; 0 or an exit code. */
static int take_settings(struct dmt_conf *c, int argc, char **argv, int from)
{
    struct dmt_err err = {0};
    for (int i = from; i < argc; i++) {
        char key[128];
        const char *w = argv[i], *eq;
        while (*w == '-')
            w++;
        eq = strchr(w, '=');
        snprintf(key, sizeof key, "%.*s", (int)(eq ? (size_t)(eq - w) : strlen(w)), w);
        const char *val = eq ? eq + 1 : "";
        if (!eq && i + 1 < argc && argv[i][0] == '-' && argv[i + 1][0] != '-' &&
            strcmp(key, "create") != 0)
            val = argv[++i];
        if (eq && !*val && dmt_option_find(key)) {
            dmt_conf_unset(c, key);
            continue;
        }
        if (dmt_option_check(key, val, DMT_OPT_IN_CONF, &err) != 0)
            return fail(EXIT_USAGE, &err);
        dmt_conf_set(c, key, val);
    }
    return EXIT_OK;
}

static int save_conf(const char *name, const struct dmt_conf *c, struct dmt_err *err)
{
    char path[4096], dir[4096];
    snprintf(dir, sizeof dir, "%s/workspaces", dmt_dir_etc());
    int rc = dmt_io_mkdirs(dmt_io_real(), dir, 0755);
    if (rc != 0)
        return dmt_err_set(err, rc, "cannot make %s: %s", dir, dmt_strerror(rc));
    ws_conf_path(name, path);
    return dmt_conf_save(c, path, err);
}

/* Takes "--KEY VALUE" out of argv. */
static const char *take_flag(int *argc, char **argv, const char *flag)
{
    for (int i = 1; i + 1 < *argc; i++) {
        if (strcmp(argv[i], flag) != 0)
            continue;
        const char *v = argv[i + 1];
        for (int k = i; k + 2 <= *argc; k++)
            argv[k] = argv[k + 2];
        *argc -= 2;
        return v;
    }
    return NULL;
}

static void print_two(const char *k1, const char *v1, const char *k2, const char *v2)
{
    json_t *o = json_pack("{s:s, s:o}", k1, v1, k2, json_bytes(v2));
    print_json(o);
    json_decref(o);
}

static int create(int argc, char **argv)
{
    struct dmt_err err = {0};
    char store[4096], path[4096];
    const char *from = take_flag(&argc, argv, "--from"), *to = take_flag(&argc, argv, "--to"),
               *lineage = take_flag(&argc, argv, "--lineage");
    if (argc < 1 || ((to || lineage) && !from))
        return usage_of(&verb_workspace);
    const char *name = argv[0];
    if (dmt_workspace_name_check(name, &err) != 0)
        return fail(EXIT_USAGE, &err);
    ws_conf_path(name, path);
    if (access(path, F_OK) == 0)
        return failf(EXIT_FAILED,
                     "`dumont workspace set` changes it; `dumont workspace remove` deletes it.",
                     "workspace %s exists already (%s)", name, path);
    struct dmt_conf *c = dmt_conf_new();
    int rc = take_settings(c, argc, argv, 1);
    if (rc == EXIT_OK && dmt_options_consistent(c, &err) != 0)
        rc = fail(EXIT_USAGE, &err);
    const char *s = dmt_conf_get(c, "store"), *role = dmt_conf_get(c, "role");
    snprintf(store, sizeof store, "%s", s ? s : "");
    if (!s)
        snprintf(store, sizeof store, "%s/%s", dmt_dir_state(), name);
    if (rc == EXIT_OK && from)
        rc = restore_store(from, store, name, to, lineage, !opt_json);
    else if (rc == EXIT_OK && !(role && strcmp(role, "standby") == 0) &&
             make_store(name, store, c, &err) != 0)
        rc = fail(EXIT_FAILED, &err);
    if (rc == EXIT_OK && save_conf(name, c, &err) != 0)
        rc = fail(EXIT_FAILED, &err);
    bool standby = role && strcmp(role, "standby") == 0;
    if (rc == EXIT_OK && opt_json)
        print_two("name", name, "store", store);
    else if (rc == EXIT_OK && standby)
        printf("standby of %s configured; dumontd starts it, and its holder fills %s\n", name,
               store);
    else if (rc == EXIT_OK)
        printf("workspace %s created in %s\nmount it with: mount -t dumont %s DIR\n", name, store,
               name);
    dmt_conf_free(c);
    return rc;
}

static int list_one(void *ctx, const char *name)
{
    struct dmt_conf *c = NULL;
    struct dmt_err err = {0};
    char store[4096];
    if (ws_load(name, &c, store, &err) != 0)
        return 0;
    const char *role = dmt_conf_get(c, "role");
    bool runs = ws_runs(name);
    if (opt_json)
        json_array_append_new(ctx, json_pack("{s:s, s:s, s:s, s:b}", "name", name, "store", store,
                                             "role", role ? role : "primary", "running", runs));
    else
        printf("%-24s %-10s %-8s %s\n", name, role ? role : "primary", runs ? "running" : "",
               store);
    dmt_conf_free(c);
    return 0;
}

static int show(const char *name)
{
    struct dmt_err err = {0};
    struct dmt_conf *c = NULL;
    char store[4096];
    int rc = ws_load(name, &c, store, &err);
    if (rc != 0)
        return fail_conf(rc, &err);
    json_t *o = json_pack("{s:s, s:s}", "name", name, "store", store);
    for (size_t i = 0; i < dmt_conf_count(c); i++) {
        json_object_set_new(o, dmt_conf_key(c, i), json_string(dmt_conf_value(c, i)));
        if (!opt_json)
            printf("%s=%s\n", dmt_conf_key(c, i), dmt_conf_value(c, i));
    }
    if (opt_json)
        print_json(o);
    else if (!dmt_conf_get(c, "store"))
        printf("store=%s\n", store);
    json_decref(o);
    dmt_conf_free(c);
    return EXIT_OK;
}

static int set(int argc, char **argv)
{
    struct dmt_err err = {0};
    struct dmt_conf *c = NULL;
    char store[4096];
    if (argc < 2)
        return usage_of(&verb_workspace);
    int rc = ws_load(argv[0], &c, store, &err);
    if (rc != 0)
        return fail_conf(rc, &err);
    rc = take_settings(c, argc, argv, 1);
    if (rc == EXIT_OK && dmt_options_consistent(c, &err) != 0)
        rc = fail(EXIT_USAGE, &err);
    if (rc == EXIT_OK && save_conf(argv[0], c, &err) != 0)
        rc = fail(EXIT_FAILED, &err);
    dmt_conf_free(c);
    if (rc != EXIT_OK)
        return rc;
    if (opt_json)
        return show(argv[0]);
    printf("saved%s%s%s\n", ws_runs(argv[0]) ? "; it takes effect when " : "",
           ws_runs(argv[0]) ? argv[0] : "", ws_runs(argv[0]) ? " is started again" : "");
    return rc;
}

/* --- remove ----------------------------------------------------------------------------------- */
static int remove_tree(int dirfd, const char *name)
{
    int fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC), rc = 0;
    if (fd < 0)
        return errno == ENOENT ? 0 : -errno;
    DIR *d = fdopendir(fd);
    if (!d) {
        close(fd);
        return -ENOMEM;
    }
    for (struct dirent *e; rc == 0 && (e = readdir(d));) {
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
            continue;
        if (e->d_type == DT_DIR)
            rc = remove_tree(fd, e->d_name);
        else if (unlinkat(fd, e->d_name, 0) != 0)
            rc = -errno;
    }
    closedir(d);
    if (rc == 0 && unlinkat(dirfd, name, AT_REMOVEDIR) != 0)
        rc = -errno;
    return rc;
}

static int remove_ws(int argc, char **argv)
{
    struct dmt_err err = {0};
    struct dmt_conf *c = NULL;
    char store[4096], path[4096];
    bool yes = argc == 2 && strcmp(argv[1], "--yes") == 0;
    if (argc != 1 && !yes)
        return usage_of(&verb_workspace);
    int rc = ws_load(argv[0], &c, store, &err);
    if (rc != 0)
        return fail_conf(rc, &err);
    dmt_conf_free(c);
    if (ws_runs(argv[0]))
        return failf(EXIT_FAILED,
                     "Unmount it first (a standby: stop it with `dumont workspace stop NAME`).",
                     "workspace %s is running", argv[0]);
    if (!yes)
        return failf(EXIT_USAGE, "Add --yes to do it; an archive, if there is one, is not touched.",
                     "this deletes workspace %s and everything in %s on this machine", argv[0],
                     store);
    if ((rc = remove_tree(AT_FDCWD, store)) != 0)
        return failf(EXIT_FAILED, NULL, "cannot remove %s: %s", store, dmt_strerror(rc));
    ws_conf_path(argv[0], path);
    if (unlink(path) != 0 && errno != ENOENT)
        return failf(EXIT_FAILED, NULL, "cannot remove %s: %s", path, strerror(errno));
    ws_stopped_path(argv[0], path);
    (void)unlink(path);
    if (opt_json)
        print_two("removed", argv[0], "store", store);
    else
        printf("workspace %s removed\n", argv[0]);
    return EXIT_OK;
}

static int run(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "";
    if (strcmp(what, "create") == 0)
        return create(argc - 2, argv + 2);
    if (strcmp(what, "list") == 0 && argc == 2) {
        json_t *all = json_array();
        ws_each(list_one, all);
        if (opt_json)
            print_json(all);
        json_decref(all);
        return EXIT_OK;
    }
    if (strcmp(what, "show") == 0 && argc == 3)
        return show(argv[2]);
    if (strcmp(what, "set") == 0)
        return set(argc - 2, argv + 2);
    if (strcmp(what, "remove") == 0)
        return remove_ws(argc - 2, argv + 2);
    if ((strcmp(what, "stop") == 0 || strcmp(what, "start") == 0) && argc == 3)
        return what[2] == 'o' ? ws_stop(argv[2]) : ws_start(argv[2]);
    if (strcmp(what, "restart") == 0 && argc == 3)
        return ws_restart(argv[2]);
    return usage_of(&verb_workspace);
}

const struct verb verb_workspace = {
    "workspace",
    "create NAME [KEY=VALUE...] [--from URL [--to TIME] [--lineage HEX]] | list | show NAME | set NAME KEY=VALUE... | remove NAME --yes | "
    "stop NAME | start NAME | restart NAME",
    "make, list, configure, remove workspaces of this machine; stop and start a standby; replace a process",
    run};
