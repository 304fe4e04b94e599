/* verb_restore.c: `dumont restore`: the workspace as plain files, from the archive alone; and the
 * store-building half that `workspace create --from` and `verify --archive` use.
 *
 * Happy path: archive -> scratch store beside DIR -> open (recovery) -> walk -> plain files ->
 * scratch removed. Failure: the sentence of the archive (which object, how far one can still get);
 * DIR is left empty, the scratch store removed. One thread.
 */
#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "fs/archive/archive.h"
#include "fs/base/clock.h"
#include "tools/dumont.h"
#include "tools/restore.h"

static int remove_entry(const char *path, const struct stat *st, int flag, struct FTW *f)
{
    (void)st;
    (void)flag;
    (void)f;
    return remove(path) == 0 ? 0 : -1;
}

int remove_path(const char *path)
{
    return nftw(path, remove_entry, 32, FTW_DEPTH | FTW_PHYS | FTW_MOUNT) == 0 || errno == ENOENT
               ? 0
               : -errno;
}

static void show(void *ctx, uint64_t done, uint64_t total)
{
    progress(ctx, done, total, "B");
}

int restore_store(const char *url, const char *store, const char *name, const char *to,
                  const char *lineage, bool say)
{
    struct dmt_err err = {0};
    char what[] = "restoring", when[32];
    const struct dmt_clock *clk = dmt_clock_real();
    struct dmt_restore r = {
        .url = url, .name = name, .dir = store, .lineage = lineage, .progress = show, .ctx = what};
    if (to && dmt_time_parse(to, clk->realtime_ns(clk->ctx), &r.to_time_ns) != 0)
        return failf(
            EXIT_USAGE,
            "Write it as \"2026-11-23 10:00\", 2026-11-23T10:00:00Z, @SECONDS or \"10 minutes ago\".",
            "\"%s\" is not a time", to);
    progress(what, 0, 0, "B");
    int rc = dmt_archive_restore(&r, &err);
    progress_end();
    if (rc != 0)
        return fail(rc == DMT_E_CONFIG || rc == -EINVAL ? EXIT_USAGE : EXIT_FAILED, &err);
    if (say)
        printf(
            "restored to position %" PRIu64 ", %s%s\n", r.reached.seq,
            local_time(r.reached_time_ns, when),
            r.incomplete
                ? "; some files have older content: their bulk data of that moment was not archived"
                : "");
    return EXIT_OK;
}

int open_offline(const char *store, struct dmt_ws **ret, struct dmt_pool **ret_pool,
                 struct dmt_err *err)
{
    *ret_pool = NULL;
    int rc = dmt_pool_new(ret_pool, "pool", 1, 64);
    struct dmt_ws_conf wc = {.io = dmt_io_real(),
                             .clock = dmt_clock_real(),
                             .dir = store,
                             .gate = dmt_gate_open(),
                             .pool = *ret_pool};
    if (rc == 0)
        rc = dmt_ws_open(ret, &wc, err);
    if (rc != 0) {
        dmt_pool_free(*ret_pool);
        *ret_pool = NULL;
    }
    return rc;
}

void close_offline(struct dmt_ws *ws, struct dmt_pool *pool)
{
    struct dmt_err err;
    dmt_ws_close(ws, &err);
    dmt_pool_free(pool);
}

static int dir_ready(const char *dir)
{
    if (mkdir(dir, 0755) != 0 && errno != EEXIST)
        return failf(EXIT_FAILED, NULL, "cannot make %s: %s", dir, strerror(errno));
    DIR *d = opendir(dir);
    if (!d)
        return failf(EXIT_FAILED, NULL, "cannot read %s: %s", dir, strerror(errno));
    int n = 0;
    for (struct dirent *e; (e = readdir(d));)
        n += strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
    closedir(d);
    return n ? failf(EXIT_FAILED, "Give a directory that is empty or does not exist.",
                     "%s is not empty", dir)
             : EXIT_OK;
}

static int restore_files(const char *url, const char *name, const char *dir, const char *to,
                         const char *lineage)
{
    struct dmt_err err = {0};
    struct dmt_ws *ws;
    struct dmt_pool *pool;
    char scratch[4200];
    uint64_t files = 0;
    snprintf(scratch, sizeof scratch, "%.4000s.dumont-restore-%d", dir, (int)getpid());
    int rc = restore_store(url, scratch, name, to, lineage, !opt_json);
    if (rc == EXIT_OK) {
        progress("writing files", 0, 0, "");
        int e = open_offline(scratch, &ws, &pool, &err);
        if (e == 0) {
            e = extract_tree(ws, DMT_LIVE, dir, &files, &err);
            close_offline(ws, pool);
        }
        rc = e == 0 ? EXIT_OK : fail(EXIT_FAILED, &err);
    }
    progress_end();
    remove_path(scratch);
    if (rc == EXIT_OK && !opt_json)
        printf("%" PRIu64 " files and directories in %s\n", files, dir);
    if (rc == EXIT_OK && opt_json) {
        json_t *o = json_pack("{s:o, s:I}", "dir", json_bytes(dir), "files", (json_int_t)files);
        print_json(o);
        json_decref(o);
    }
    return rc;
}

/* The files that a branch names, as that machine had them: asked of the workspace's process, which
 * keeps the branch. */
static int extract_branch(const char *name, const char *dir, const char *branch)
{
    struct dmt_err err = {0};
    char path[4096];
    json_t *r = NULL;
    int rc = dir_ready(dir);
    if (rc != EXIT_OK)
        return rc;
    if (!realpath(dir, path))
        return failf(EXIT_FAILED, NULL, "%s: %s", dir, strerror(errno));
    rc = control_call(
        name, json_pack("{s:s, s:s, s:s}", "cmd", "branch.extract", "branch", branch, "dir", path),
        &r, &err);
    if (rc != 0)
        return fail_call(rc, &err);
    uint64_t left_out = json_u64(r, "left_out");
    json_decref(r);
    if (opt_json) {
        json_t *o = json_pack("{s:o, s:s, s:I}", "dir", json_bytes(dir), "branch", branch,
                              "left_out", (json_int_t)left_out);
        print_json(o);
        json_decref(o);
    } else {
        printf("the files of %s are in %s\n", branch, dir);
        if (left_out > 0)
            printf("%" PRIu64 " more are left out: this machine does not have all of their bytes; "
                   "they come with the branch that ends in .bulk\n",
                   left_out);
    }
    return EXIT_OK;
}

static int run(int argc, char **argv)
{
    struct dmt_err err = {0};
    struct dmt_conf *c = NULL;
    const char *name = NULL, *dir = NULL, *to = NULL, *from = NULL, *branch = NULL, *lineage = NULL;
    char store[4096], path[4096] = "";
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--to") == 0 && i + 1 < argc)
            to = argv[++i];
        else if (strcmp(argv[i], "--from") == 0 && i + 1 < argc)
            from = argv[++i];
        else if (strcmp(argv[i], "--lineage") == 0 && i + 1 < argc)
            lineage = argv[++i];
        else if (strcmp(argv[i], "--branch") == 0 && i + 1 < argc)
            branch = argv[++i];
        else if (argv[i][0] == '-' || dir)
            return usage_of(&verb_restore);
        else if (!name)
            name = argv[i];
        else
            dir = argv[i];
    }
    if (!name || !dir || (branch && (to || from || lineage)))
        return usage_of(&verb_restore);
    if (branch)
        return extract_branch(name, dir, branch);
    if (!from) {
        int rc = ws_load(name, &c, store, &err);
        if (rc == -ENOENT)
            dmt_err_hint(
                &err,
                "On another machine say where the archive is: dumont restore %s DIR --from URL",
                name);
        if (rc != 0)
            return fail_conf(rc, &err);
        from = dmt_conf_get(c, "archive");
        if (!from) {
            dmt_conf_free(c);
            return failf(EXIT_USAGE, "Say where it is with --from URL.",
                         "workspace %s has no archive= in its configuration", name);
        }
    }
    int rc = dir_ready(dir);
    if (rc == EXIT_OK && realpath(dir, path))
        rc = restore_files(from, name, path, to, lineage);
    dmt_conf_free(c);
    return rc;
}

const struct verb verb_restore = {
    "restore", "NAME DIR ([--to TIME] [--from URL] [--lineage HEX] | --branch BRANCH)",
    "write the workspace as plain files, from the archive alone", run};
