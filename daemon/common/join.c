/* join.c: `dumontd join TOKEN`: this machine gets its certificate from the controller. (One that a
 * provider made finds its token in a file, and dumontd does the same when it starts.)
 *
 * Owns nothing that lasts. Happy path: the token is taken apart; the key that this machine has, or
 * a new one, signs a request in memory; a connection to the controller, which must show the CA
 * whose fingerprint stands in the token and a certificate of that CA in its own name; the secret
 * and the request go there, the certificate and the CA come back, are held against key, name and
 * fingerprint, and only then written: ca.pem, node.key, node.pem, each 0600 and replaced as a
 * whole. A machine that has a key keeps it, so a crash between the files leaves a pair that fits.
 * Failure modes: one sentence and exit code 1, and nothing is written; a token whose answer was
 * lost is used up: the next one is a line away. Thread: main.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/common/jline.h"
#include "daemon/common/tlsline.h"
#include "daemon/common/token.h"
#include "daemon/dumontd.h"
#include "fs/base/io.h"
#include "fs/base/options.h"

#define ANSWER_MS 15000
#define ROUND_MS  500
#define PORT      7402

struct place {
    char dir[DMT_PATH_MAX], ca[DMT_PATH_MAX], cert[DMT_PATH_MAX], key[DMT_PATH_MAX];
    bool configured; /* dumontd.conf says where the controller is */
    char *old_ca;    /* what is there, if it is not the one of the token */
};

/* Where the files belong; the token must be for this machine, if it has a name already. */
static int find_place(const struct token *t, struct place *p, struct dmt_err *err)
{
    char path[DMT_PATH_MAX];
    struct dmt_conf *conf = dmt_conf_new();
    (void)snprintf(path, sizeof(path), "%s/dumontd.conf", dmt_dir_etc());
    int r = conf ? dmt_conf_load(conf, path, err) : -ENOMEM;
    if (r == -ENOENT)
        r = 0;
    const char *node = conf ? dmt_conf_get(conf, "node") : NULL;
    if (r == 0 && node && strcmp(node, t->node) != 0) {
        r = dmt_err_set(err, -EINVAL, "the token is for %s, but %s says node=%s", t->node, path,
                        node);
        dmt_err_hint(err, "on the controller: dumontd token %s", node);
    }
    if (r == 0) {
        (void)snprintf(p->dir, sizeof(p->dir), "%s/tls", dmt_dir_etc());
        dumontd_tls_path(conf, "tls_ca", "ca.pem", p->ca);
        dumontd_tls_path(conf, "tls_cert", "node.pem", p->cert);
        dumontd_tls_path(conf, "tls_key", "node.key", p->key);
        p->configured = dmt_conf_get(conf, "controller") && node;
    }
    dmt_conf_free(conf);
    return r;
}

static int other_ca(const struct place *p, struct dmt_err *err)
{
    dmt_err_set(err, -EEXIST, "this machine belongs to another CA than that of the token");
    return dmt_err_hint(err, "if it is to change its controller: mv %s %s.old", p->dir, p->dir);
}

/* A machine of another CA would lose what it has there. Whether it is another one, or the same with
 * a new certificate, is seen when that has come. */
static int check_ca(struct place *p, const struct token *t, struct dmt_err *err)
{
    char *pem = NULL;
    size_t n = 0;
    uint8_t fp[DMT_FINGERPRINT];
    int r = dmt_io_read_file(dmt_io_real(), p->ca, 1 << 16, &pem, &n);
    if (r == -ENOENT)
        return 0;
    if (r < 0)
        return dmt_err_set(err, r, "cannot read %s: %s", p->ca, dmt_strerror(r));
    if (dmt_cert_fingerprint(pem, fp, NULL) < 0)
        r = other_ca(p, err);
    else if (memcmp(fp, t->fingerprint, sizeof(fp)) != 0)
        p->old_ca = pem, pem = NULL;
    free(pem);
    return r;
}

struct answer {
    json_t *v;
};

static int on_line(void *ctx, const json_t *v)
{
    struct answer *a = ctx;
    if (!a->v)
        a->v = json_deep_copy(v);
    return 0;
}

/* One question on an open line. 0 and *ret, the whole answer. */
static int converse(struct tlsline *line, const struct token *t, const char *csr, json_t **ret,
                    struct dmt_err *err)
{
    struct answer a = {0};
    int r = 0;
    if (strcmp(tlsline_peer(line), t->controller) != 0)
        return dmt_err_set(err, DMT_E_AUTH, "%s answers as %s, not as the controller %s",
                           t->address, tlsline_peer(line), t->controller);
    tlsline_send(line, json_pack("{s:s s:i s:s s:s s:s}", "op", "join", "v", 1, "node", t->node,
                                 "secret", t->secret, "csr", csr));
    for (int left = ANSWER_MS; r == 0 && !a.v && left > 0; left -= ROUND_MS)
        r = tlsline_run(line, ROUND_MS, on_line, &a);
    if (!a.v)
        return dmt_err_set(err, r < 0 ? r : -ETIMEDOUT, "no answer from the controller at %s: %s",
                           t->address, r < 0 ? tlsline_why(line, r) : "time is over");
    const char *why = jline_str(a.v, "why", NULL);
    if (why) {
        bool again = json_is_true(json_object_get(a.v, "again"));
        r = dmt_err_set(err, again ? DMT_E_RETRY : DMT_E_AUTH,
                        "the controller refuses the token: %s", why);
        dmt_err_hint(err, "on %s: dumontd token %s", t->controller, t->node);
        json_decref(a.v);
        return r;
    }
    *ret = a.v;
    return 0;
}

static int ask(const struct token *t, const char *csr, json_t **ret, struct dmt_err *err)
{
    struct dmt_tls_ctx *ctx = NULL;
    struct tlsline *line = NULL;
    int r = dmt_tls_ctx_pinned(&ctx, t->fingerprint, err);
    int fd = r == 0 ? tlsline_connect(t->address, PORT, ANSWER_MS, err) : r;
    r = fd < 0 ? fd : tlsline_open(&line, ctx, fd, false, ANSWER_MS, err);
    if (r == DMT_E_AUTH)
        dmt_err_hint(err,
                     "nothing was sent: what answers at %s is not the controller that made "
                     "the token, or its CA is a new one since",
                     t->address);
    if (r == 0)
        r = converse(line, t, csr, ret, err);
    tlsline_free(line);
    dmt_tls_ctx_free(ctx);
    return r;
}

static int write_one(const char *path, const char *text, struct dmt_err *err)
{
    int r = dmt_io_write_file(dmt_io_real(), path, text, strlen(text), 0600);
    return r < 0 ? dmt_err_set(err, r, "cannot write %s: %s", path, dmt_strerror(r)) : 0;
}

/* Nothing of the answer is believed before it fits. */
static int keep(const struct place *p, const struct token *t, const char *key, const json_t *v,
                struct dmt_err *err)
{
    const char *cert = jline_str(v, "cert", ""), *ca = jline_str(v, "ca", "");
    uint8_t fp[DMT_FINGERPRINT];
    int r = dmt_cert_fingerprint(ca, fp, err);
    if (r == 0 && memcmp(fp, t->fingerprint, sizeof(fp)) != 0)
        r = dmt_err_set(err, DMT_E_AUTH, "the CA that came is not the one of the token");
    if (r == 0 && p->old_ca && !dmt_ca_succeeds(ca, p->old_ca))
        r = other_ca(p, err);
    if (r == 0)
        r = dmt_cert_fits(cert, ca, key, t->node, err);
    if (r == 0 && (r = dmt_io_mkdirs(dmt_io_real(), p->dir, 0700)) < 0)
        dmt_err_set(err, r, "cannot make %s: %s", p->dir, strerror(-r));
    if (r == 0)
        r = write_one(p->ca, ca, err);
    if (r == 0 && access(p->key, F_OK) < 0)
        r = write_one(p->key, key, err);
    return r == 0 ? write_one(p->cert, cert, err) : r;
}

static void say_done(const struct place *p, const struct token *t)
{
    struct dmt_cert_life life = {0};
    char date[DMT_CERT_TIME];
    (void)dmt_cert_life(p->cert, &life, NULL);
    (void)printf("%s has joined: its certificate is %s, good until %s and renewed by dumontd\n",
                 t->node, p->cert, dmt_cert_time(life.until_s, date));
    if (p->configured)
        (void)printf("next: dumontd\n");
    else
        (void)printf("next: node=%s and controller=%s into %s/dumontd.conf, then dumontd\n",
                     t->node, t->address, dmt_dir_etc());
}

static int join(const char *token, struct token *t, struct place *p, struct dmt_err *err)
{
    char *key = NULL, *csr = NULL;
    json_t *v = NULL;
    int r = token_parse(token, t, err);
    if (r == 0)
        r = find_place(t, p, err);
    if (r == 0)
        r = check_ca(p, t, err);
    if (r == 0)
        r = dmt_key_pem(p->key, &key, err);
    if (r == 0)
        r = dmt_csr_pem(key, t->node, &csr, err);
    if (r == 0)
        r = ask(t, csr, &v, err);
    if (r == 0)
        r = keep(p, t, key, v, err);
    if (key)
        explicit_bzero(key, strlen(key));
    free(key);
    free(csr);
    free(p->old_ca);
    p->old_ca = NULL;
    json_decref(v);
    return r;
}

int dumontd_join(const char *token, struct dmt_err *err)
{
    struct token t;
    struct place p = {0};
    return join(token, &t, &p, err);
}

int dumontd_join_main(int argc, char **argv)
{
    struct token t;
    struct place p = {0};
    struct dmt_err err = {0};
    if (argc != 2 || argv[1][0] == '-') {
        (void)fprintf(stderr, "usage: dumontd join TOKEN\n");
        return 2;
    }
    umask(077);
    if (join(argv[1], &t, &p, &err) < 0)
        return dumontd_complain(&err);
    say_done(&p, &t);
    return 0;
}
