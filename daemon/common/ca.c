/* ca.c: `dumontd ca`: the small certificate authority by hand, for a pair without a controller.
 * (With one, dumontd makes the CA itself, and machines get their certificates by join.c.)
 *
 *   dumontd ca init [--dir DIR]                     DIR/ca.pem and DIR/ca.key (0600); refused when
 * they exist
 *   dumontd ca renew [--dir DIR]                    DIR/ca.pem with a later end, of the same key
 *   dumontd ca issue NODE [--dir DIR] [--out OUT]   OUT/node.pem, OUT/node.key (0600),
 * OUT/ca.pem
 *
 * DIR is /etc/dumont/tls; OUT is DIR when NODE is this machine (node= of dumontd.conf, or the host
 * name), else DIR/NODE, so that issuing for another node never replaces this machine's own key.
 * Exit codes: 0, 1 with a sentence, 2 usage. Thread: main.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/dumontd.h"
#include "fs/base/io.h"
#include "fs/base/options.h"

#define NODE_DAYS 825

static int usage(void)
{
    (void)fprintf(stderr, "usage: dumontd ca init|renew [--dir DIR]\n"
                          "       dumontd ca issue NODE [--dir DIR] [--out DIR]\n");
    return 2;
}

static void join(char ret[DMT_PATH_MAX], const char *dir, const char *name)
{
    (void)snprintf(ret, DMT_PATH_MAX, "%.*s/%.*s", (int)DMT_PATH_MAX / 2, dir,
                   DMT_NODE_NAME_MAX + 1, name);
}

static int make_dir(const char *dir, struct dmt_err *err)
{
    int r = dmt_io_mkdirs(dmt_io_real(), dir, 0700);
    return r < 0 ? dmt_err_set(err, r, "cannot make %s: %s", dir, strerror(-r)) : 0;
}

static int copy_file(const char *from, const char *to, struct dmt_err *err)
{
    char *text = NULL;
    size_t n = 0;
    int r = dmt_io_read_file(dmt_io_real(), from, 1 << 20, &text, &n);
    if (r == 0)
        r = dmt_io_write_file(dmt_io_real(), to, text, n, 0644);
    free(text);
    return r < 0 ? dmt_err_set(err, r, "cannot copy %s to %s: %s", from, to, dmt_strerror(r)) : 0;
}

int dumontd_ca_issue(const char *ca_dir, const char *node, const char *dir, struct dmt_err *err)
{
    char ca[DMT_PATH_MAX], key[DMT_PATH_MAX], cert_out[DMT_PATH_MAX], key_out[DMT_PATH_MAX],
        ca_out[DMT_PATH_MAX];
    join(ca, ca_dir, "ca.pem");
    join(key, ca_dir, "ca.key");
    join(cert_out, dir, "node.pem");
    join(key_out, dir, "node.key");
    join(ca_out, dir, "ca.pem");
    if (access(key, F_OK) < 0) {
        dmt_err_set(err, -ENOENT, "there is no CA key at %s", key);
        dmt_err_hint(err,
                     "dumontd ca init makes a CA; its key stays on the machine of the controller");
        return -ENOENT;
    }
    int r = make_dir(dir, err);
    if (r == 0)
        r = dmt_ca_issue(ca, key, node, NODE_DAYS, cert_out, key_out, err);
    if (r == 0 && strcmp(ca, ca_out) != 0)
        r = copy_file(ca, ca_out, err);
    return r;
}

int dumontd_ca_init(const char *dir, struct dmt_err *err)
{
    char ca[DMT_PATH_MAX], key[DMT_PATH_MAX];
    join(ca, dir, "ca.pem");
    join(key, dir, "ca.key");
    int r = make_dir(dir, err);
    if (r == 0 && (access(ca, F_OK) == 0 || access(key, F_OK) == 0)) {
        r = dmt_err_set(err, -EEXIST, "there is a CA in %s already", dir);
        dmt_err_hint(
            err,
            "a new one would make every certificate of the old one useless; remove it by hand if "
            "that is meant");
    }
    if (r == 0)
        r = dmt_ca_create(ca, key, "dumont", DMT_CA_DAYS, err);
    return r;
}

static int init(const char *dir)
{
    struct dmt_err err = {0};
    if (dumontd_ca_init(dir, &err) < 0)
        return dumontd_complain(&err);
    (void)printf("%s/ca.pem\n%s/ca.key\n", dir, dir);
    return 0;
}

static int renew(const char *dir)
{
    char ca[DMT_PATH_MAX], key[DMT_PATH_MAX];
    struct dmt_err err = {0};
    join(ca, dir, "ca.pem");
    join(key, dir, "ca.key");
    if (dmt_ca_renew(ca, key, DMT_CA_DAYS, &err) < 0)
        return dumontd_complain(&err);
    (void)printf("%s\n", ca);
    return 0;
}

static int issue(const char *dir, const char *node, const char *out)
{
    char self[DMT_NODE_NAME_MAX + 1], other[DMT_PATH_MAX];
    struct dmt_err err = {0};
    join(other, dir, node);
    dumontd_node_name(NULL, self);
    if (!out)
        out = strcmp(self, node) == 0 ? dir : other;
    if (dumontd_ca_issue(dir, node, out, &err) < 0)
        return dumontd_complain(&err);
    (void)printf("%s/node.pem\n%s/node.key\n%s/ca.pem\n", out, out, out);
    return 0;
}

int dumontd_ca_main(int argc, char **argv)
{
    char dflt[DMT_PATH_MAX];
    const char *dir = dflt, *out = NULL, *word = NULL, *node = NULL;
    join(dflt, dmt_dir_etc(), "tls");
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--dir") == 0 && i + 1 < argc)
            dir = argv[++i];
        else if (strcmp(argv[i], "--out") == 0 && i + 1 < argc)
            out = argv[++i];
        else if (argv[i][0] == '-')
            return usage();
        else if (!word)
            word = argv[i];
        else if (!node)
            node = argv[i];
        else
            return usage();
    }
    if (word && strcmp(word, "init") == 0 && !node && !out)
        return init(dir);
    if (word && strcmp(word, "renew") == 0 && !node && !out)
        return renew(dir);
    if (word && strcmp(word, "issue") == 0 && node)
        return issue(dir, node, out);
    return usage();
}
