/* join.c: certificates by the controller: a machine joins with a token, those that have one have it
 * renewed, and so has the controller itself.
 *
 * Owns nothing but the counters of struct ctl. Happy path of a guest: it has shown no certificate,
 * so all it may say is one line, {"op":"join"}; its token is known, its own, not used, not expired;
 * it is marked as used, durably, and then the request is signed. Happy path of a renewal: the node
 * is who its certificate says, and asks for that name again. The CA's own certificate is renewed
 * with the same key. Failure modes: each refusal is
 * answered with its reason, and logged; what a guest may cost is bounded (the length of its line,
 * the time until it has said it, guests at a time from one address and together, and attempts a
 * second). All under the controller's lock, but ctl_own_certificate.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/common/jline.h"
#include "daemon/common/token.h"
#include "daemon/controller/internal.h"
#include "fs/base/clock.h"
#include "fs/base/io.h"
#include "fs/base/log.h"

#define BURST       10
#define OWN_EVERY_S 3

bool ctl_take(struct ctl_rate *r, int burst)
{
    uint64_t now = ctl_now();
    uint64_t earned = (now - r->at_ns) / DMT_S;
    if (r->at_ns == 0 || earned > 0) {
        r->left += r->at_ns == 0 || earned > (uint64_t)burst ? burst : (int)earned;
        r->left = r->left > burst ? burst : r->left;
        r->at_ns = now;
    }
    if (r->left <= 0)
        return false;
    r->left--;
    return true;
}

static int sign(struct ctl *c, const char *csr, const char *node, char **ret, struct dmt_err *err)
{
    if (!c->ca_key[0] || access(c->ca_key, F_OK) < 0)
        return dmt_err_set(err, -ENOENT, "the controller has no CA key, so it cannot sign");
    return dmt_ca_sign(c->ca, c->ca_key, csr, node, c->cert_life_s, ret, err);
}

static int join(struct ctl_conn *k, const json_t *v, char **cert, char **ca, struct dmt_err *err)
{
    struct ctl *c = k->c;
    char hash[2 * DMT_FINGERPRINT + 1];
    const char *node = jline_str(v, "node", ""), *secret = jline_str(v, "secret", "");
    size_t n = 0;
    if (!ctl_take(&c->attempts, BURST))
        return dmt_err_set(err, -EBUSY, "there are too many attempts to join: wait a moment");
    token_hash(secret, hash);
    int r = ctl_db_token_check(c->db, hash, node, err);
    if (r == 0)
        r = sign(c, jline_str(v, "csr", ""), node, cert, err);
    if (r == 0 && (r = dmt_io_read_file(dmt_io_real(), c->ca, 1 << 16, ca, &n)) < 0)
        dmt_err_set(err, r, "cannot read %s: %s", c->ca, dmt_strerror(r));
    return r == 0 ? ctl_db_token_use(c->db, hash, node, k->from, err) : r;
}

int ctl_guest_line(struct ctl_conn *k, const json_t *v)
{
    struct dmt_err err = {0};
    char *cert = NULL, *ca = NULL;
    if (k->answered || strcmp(jline_str(v, "op", ""), "join") != 0)
        return -EBADMSG;
    k->answered = true;
    if (join(k, v, &cert, &ca, &err) == 0) {
        dmt_info("%s has joined from %s", jline_str(v, "node", ""), k->from);
        tlsline_send(k->line, json_pack("{s:s s:s}", "cert", cert, "ca", ca));
    } else {
        if (ctl_take(&k->c->logged, BURST))
            dmt_warn("join from %s refused: %s", k->from, err.msg);
        tlsline_send(k->line, json_pack("{s:s s:b}", "why", err.msg, "again", err.code == -EBUSY));
    }
    free(cert);
    free(ca);
    return 0;
}

void ctl_renew(struct ctl_conn *k, const json_t *v)
{
    struct dmt_err err = {0};
    char *cert = NULL, *ca = NULL;
    size_t n = 0;
    int r = sign(k->c, jline_str(v, "csr", ""), k->node, &cert, &err);
    if (r == 0) {
        dmt_info("the certificate of %s is renewed", k->node);
        (void)dmt_io_read_file(dmt_io_real(), k->c->ca, 1 << 16, &ca, &n);
        tlsline_send(k->line, json_pack("{s:s s:s s:s}", "ev", "certificate", "cert", cert, "ca",
                                        ca ? ca : ""));
    } else {
        if (ctl_take(&k->c->logged, BURST))
            dmt_warn("the certificate of %s is not renewed: %s", k->node, err.msg);
        tlsline_send(k->line, json_pack("{s:s s:s}", "ev", "certificate", "why", err.msg));
    }
    free(cert);
    free(ca);
}

/* Long before it ends, and with the same key: every node gets it with its next certificate, and
 * until then each of the two is good for what the other one's have signed. */
static void renew_ca(struct ctl *c)
{
    struct dmt_cert_life life;
    struct dmt_err err = {0};
    char date[DMT_CERT_TIME];
    if (dmt_cert_life(c->ca, &life, NULL) == 0 && dmt_cert_due(&life) &&
        access(c->ca_key, F_OK) == 0) {
        if (dmt_ca_renew(c->ca, c->ca_key, DMT_CA_DAYS, &err) == 0)
            dmt_info("the certificate of the CA is renewed: it ended on %s",
                     dmt_cert_time(life.until_s, date));
        else if (ctl_take(&c->logged, BURST))
            dmt_error("the certificate of the CA is not renewed: %s", err.msg);
    }
    if (dmt_tls_ctx_ca_ends(c->tls, &life))
        dmt_warn("the certificate of the CA ends on %s, and every other one with it: dumontd ca "
                 "renew, where its key is",
                 dmt_cert_time(life.until_s, date));
}

void ctl_own_certificate(struct ctl *c)
{
    struct dmt_cert_life life;
    struct dmt_err err = {0};
    char *csr = NULL, *cert = NULL;
    if (ctl_now() < c->own_ns)
        return;
    c->own_ns = ctl_now() + OWN_EVERY_S * DMT_S;
    renew_ca(c);
    dmt_tls_ctx_life(c->tls, &life);
    bool longer = life.life_s > c->cert_life_s; /* of before cert_life= was set */
    if ((!dmt_cert_due(&life) && !longer) || access(c->ca_key, F_OK) < 0)
        return;
    int r = dmt_tls_ctx_csr(c->tls, &csr, &err);
    if (r == 0)
        r = dmt_ca_sign(c->ca, c->ca_key, csr, life.node, c->cert_life_s, &cert, &err);
    if (r == 0)
        r = dmt_tls_ctx_renew(c->tls, cert, "", &err);
    if (r == 0)
        dmt_info("the controller's own certificate is renewed");
    else
        dmt_error("the controller's own certificate is not renewed: %s", err.msg);
    free(csr);
    free(cert);
}
