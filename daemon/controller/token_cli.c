/* token_cli.c: `dumontd token NODE [--expires 1h]`, and the API's way to the same: one line by
 * which one machine may join, once.
 *
 * Owns nothing that lasts. Happy path: a random secret; its hash, the node and the end of its time
 * go into the controller's database; the token goes to whoever asked and nowhere else. It writes
 * into the database beside the running controller (SQLite orders the two), so it works while
 * dumontd is down as well. Failure modes: one sentence, exit code 1; 2 usage. Thread: main, or the
 * API's.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/common/token.h"
#include "daemon/controller/db.h"
#include "daemon/dumontd.h"
#include "fs/base/clock.h"
#include "fs/base/hash.h"
#include "fs/base/io.h"
#include "fs/base/options.h"

#define EXPIRES_MAX_MS (30ull * 24 * 3600 * 1000)

static int usage(void)
{
    (void)fprintf(stderr,
                  "usage: dumontd token NODE [--expires TIME]   (30s, 10m, 1h; at most 720h)\n");
    return 2;
}

/* advertise=, else this node's name and the port of listen=. */
static void fill_address(const struct dmt_conf *conf, const char *node, struct token *t)
{
    const char *adv = dmt_conf_get(conf, "advertise"), *listen = dmt_conf_get(conf, "listen");
    const char *port = listen ? strrchr(listen, ':') : NULL;
    if (adv)
        (void)snprintf(t->address, sizeof(t->address), "%s", adv);
    else
        (void)snprintf(t->address, sizeof(t->address), "%s%.8s", node, port ? port : ":7402");
}

static int fill_ca(const struct dmt_conf *conf, struct token *t, struct dmt_err *err)
{
    char ca[DMT_PATH_MAX], ca_key[DMT_PATH_MAX], *pem = NULL;
    size_t n = 0;
    dumontd_tls_path(conf, "tls_ca", "ca.pem", ca);
    (void)snprintf(ca_key, sizeof(ca_key), "%.4000s/tls/ca.key", dmt_dir_etc());
    int r =
        access(ca_key, F_OK) < 0 ? -ENOENT : dmt_io_read_file(dmt_io_real(), ca, 1 << 16, &pem, &n);
    if (r < 0) {
        dmt_err_set(err, r, "there is no certificate authority here (%s)", ca_key);
        dmt_err_hint(err, "tokens are made on the controller; dumontd with role=controller makes "
                          "its CA when it starts for the first time");
        return r;
    }
    r = dmt_cert_fingerprint(pem, t->fingerprint, err);
    free(pem);
    return r;
}

static int record(const struct dmt_conf *conf, const struct token *t, uint64_t expires_ms,
                  struct dmt_err *err)
{
    char dir[DMT_PATH_MAX], path[DMT_PATH_MAX + 16], hash[2 * DMT_FINGERPRINT + 1];
    const struct dmt_clock *c = dmt_clock_real();
    struct ctl_db *db = NULL;
    dumontd_state_dir(conf, dir);
    (void)snprintf(path, sizeof(path), "%s/controller.db", dir);
    int r = dmt_io_mkdirs(dmt_io_real(), dir, 0700);
    if (r < 0)
        return dmt_err_set(err, r, "cannot make %s: %s", dir, strerror(-r));
    token_hash(t->secret, hash);
    r = ctl_db_open(&db, path, err);
    if (r == 0)
        r = ctl_db_token_add(db, hash, t->node,
                             (int64_t)(c->realtime_ns(c->ctx) + expires_ms * DMT_MS), err);
    ctl_db_close(db);
    return r;
}

int dumontd_token(const struct dmt_conf *conf, const char *node, uint64_t expires_ms,
                  char ret[TOKEN_MAX], struct dmt_err *err)
{
    uint8_t secret[TOKEN_SECRET];
    struct token t = {0};
    (void)snprintf(t.node, sizeof(t.node), "%s", node);
    dumontd_node_name(conf, t.controller);
    fill_address(conf, t.controller, &t);
    dmt_random(secret, sizeof(secret));
    dmt_hex(secret, sizeof(secret), t.secret);
    int r = fill_ca(conf, &t, err);
    if (r == 0)
        r = token_text(&t, ret, err);
    return r == 0 ? record(conf, &t, expires_ms, err) : r;
}

static int make(const char *node, uint64_t expires_ms, struct dmt_err *err)
{
    char path[DMT_PATH_MAX], text[TOKEN_MAX];
    struct dmt_conf *conf = dmt_conf_new();
    (void)snprintf(path, sizeof(path), "%s/dumontd.conf", dmt_dir_etc());
    int r = conf ? dmt_conf_load(conf, path, err) : -ENOMEM;
    if (r == 0)
        r = dumontd_token(conf, node, expires_ms, text, err);
    if (r == 0)
        (void)printf("%s\n", text);
    dmt_conf_free(conf);
    return r;
}

int dumontd_token_main(int argc, char **argv)
{
    struct dmt_err err = {0};
    const char *node = NULL;
    uint64_t expires_ms = DUMONTD_TOKEN_MS;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--expires") == 0 && i + 1 < argc) {
            if (dmt_parse_duration_ms(argv[++i], &expires_ms) < 0 || expires_ms < 1000 ||
                expires_ms > EXPIRES_MAX_MS)
                return usage();
        } else if (argv[i][0] == '-' || node) {
            return usage();
        } else {
            node = argv[i];
        }
    }
    if (!node)
        return usage();
    if (dmt_workspace_name_check(node, NULL) < 0) {
        dmt_err_set(&err, -EINVAL, "'%s' is not a name for a node", node);
        return dumontd_complain(&err);
    }
    return make(node, expires_ms, &err) < 0 ? dumontd_complain(&err) : 0;
}
