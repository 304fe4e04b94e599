/* link.c: the agent's connection to the controller (thread agent-link).
 *
 * Owns the connection. Happy path: connect, hello, then status lines from agent-scan, deaths from
 * agent-watch, commands from the controller, each answered from a pool thread because it may take
 * long. Failure modes: no controller: tried again every RETRY_MS; everything here works on without
 * it. A word of death that could not be delivered is not kept: the controller sees silence then,
 * which is the slower way to the same end. Commands:
 * {"id":n,"cmd":"control","name":WS,"request":{...}},
 * {"id":n,"cmd":"assign","name":WS,"conf":{...}} and {"id":n,"cmd":"notice","in_s":SECONDS}.
 */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "daemon/agent/internal.h"
#include "daemon/common/jline.h"
#include "fs/base/clock.h"
#include "fs/base/log.h"
#include "fs/lease/arbiter.h"

#define CONNECT_MS  3000
#define RETRY_MS    500
#define ROUND_MS    1000
#define COMMAND_MS  660000 /* a handover may pre-copy for 600 s */
#define PORT        7402
#define RENEW_MAX_S 3600u

void agent_tell(struct agent *a, json_t *v)
{
    pthread_mutex_lock(&a->lock);
    if (a->line)
        tlsline_send(a->line, v);
    else
        json_decref(v);
    pthread_mutex_unlock(&a->lock);
}

struct command {
    struct agent *a;
    json_t *v;
};

static void run_command(void *arg)
{
    struct command *k = arg;
    const json_t *v = k->v;
    const char *cmd = jline_str(v, "cmd", ""), *name = jline_str(v, "name", "");
    struct dmt_err err = {0};
    json_t *result = NULL;
    int r;
    if (strcmp(cmd, "control") == 0) {
        r = agent_control(k->a, name, json_object_get(v, "request"), COMMAND_MS, &result, &err);
    } else if (strcmp(cmd, "assign") == 0) {
        r = agent_assign(k->a, name, json_object_get(v, "conf"), &err);
        result = json_object();
    } else if (strcmp(cmd, "notice") == 0) {
        r = agent_notice(k->a, jline_int(v, "in_s", 0), &err);
        result = json_object();
    } else {
        r = dmt_err_set(&err, -EINVAL, "this agent does not know the command '%s'", cmd);
    }
    json_t *a = json_pack("{s:I}", "re", jline_int(v, "id", 0));
    if (r == 0)
        json_object_set_new(a, "result", json_incref(result));
    else
        json_object_set_new(
            a, "error",
            json_pack("{s:i s:s s:s}", "code", r, "message", err.msg, "hint", err.hint));
    json_decref(result);
    agent_tell(k->a, a);
    json_decref(k->v);
    free(k);
}

/* Asks for a new certificate while there is time: at a third of its life, and again if nothing
 * comes of it. */
static void renew_if_due(struct agent *a, struct tlsline *line, uint64_t *next_ns)
{
    const struct dmt_clock *clk = dmt_clock_real();
    uint64_t now = clk->monotonic_ns(clk->ctx);
    struct dmt_cert_life life;
    struct dmt_err err = {0};
    char *csr = NULL, date[DMT_CERT_TIME];
    if (now < *next_ns)
        return;
    if (dmt_tls_ctx_ca_ends(a->tls, &life))
        dmt_warn("the certificate of the CA ends on %s, and every other one with it: is the "
                 "controller well, and its ca.key there?",
                 dmt_cert_time(life.until_s, date));
    dmt_tls_ctx_life(a->tls, &life);
    if (!dmt_cert_due(&life))
        return;
    uint64_t again_s = (uint64_t)(life.life_s / 60);
    *next_ns = now + (again_s > RENEW_MAX_S ? RENEW_MAX_S : again_s + 1) * DMT_S;
    if (dmt_tls_ctx_csr(a->tls, &csr, &err) == 0)
        tlsline_send(line, json_pack("{s:s s:s}", "op", "renew", "csr", csr));
    else
        dmt_error("the certificate is not renewed: %s", err.msg);
    free(csr);
}

static void take_certificate(struct agent *a, const json_t *v)
{
    struct dmt_err err = {0};
    struct dmt_cert_life life;
    char date[DMT_CERT_TIME];
    const char *why = jline_str(v, "why", NULL);
    int r = why ? dmt_err_set(&err, DMT_E_AUTH, "%s", why)
                : dmt_tls_ctx_renew(a->tls, jline_str(v, "cert", ""), jline_str(v, "ca", ""), &err);
    dmt_tls_ctx_life(a->tls, &life);
    if (r < 0)
        dmt_error("the certificate is not renewed, it ends on %s: %s",
                  dmt_cert_time(life.until_s, date), err.msg);
    else
        dmt_info("the certificate is renewed: good until %s", dmt_cert_time(life.until_s, date));
}

static int on_line(void *ctx, const json_t *v)
{
    struct agent *a = ctx;
    uint64_t instance = 0;
    if (strcmp(jline_str(v, "ev", ""), "certificate") == 0) {
        take_certificate(a, v);
        return 0;
    }
    if (strcmp(jline_str(v, "ev", ""), "taken") == 0) {
        if (lease_u64_parse(json_object_get(v, "instance"), &instance))
            agent_events_taken(a, jline_str(v, "workspace", ""), instance,
                               (uint64_t)jline_int(v, "n", 0));
        return 0;
    }
    struct command *k = calloc(1, sizeof(*k));
    if (!k)
        return -ENOMEM;
    k->a = a;
    k->v = json_deep_copy(v);
    if (k->v && dmt_pool_submit(a->pool, run_command, k) == 0)
        return 0;
    json_decref(k->v);
    free(k);
    agent_tell(a, json_pack("{s:I s:{s:i s:s}}", "re", jline_int(v, "id", 0), "error", "code",
                            -EBUSY, "message", "the agent is busy"));
    return 0;
}

static int open_link(struct agent *a, struct tlsline **ret, struct dmt_err *err)
{
    int fd = tlsline_connect(a->controller, PORT, CONNECT_MS, err);
    return fd < 0 ? fd : tlsline_open(ret, a->tls, fd, false, CONNECT_MS, err);
}

/* DMT_E_AUTH: refused, in err, rather than ended. */
static int run_link(struct agent *a, struct tlsline *line, struct dmt_err *err)
{
    uint64_t renew_ns = 0;
    tlsline_send(line, json_pack("{s:s s:i s:s s:s}", "op", "hello", "v", LEASE_ARBITER_VERSION,
                                 "kind", "agent", "node", a->node));
    pthread_mutex_lock(&a->lock);
    a->line = line;
    pthread_cond_signal(&a->tick); /* a first status at once */
    pthread_mutex_unlock(&a->lock);
    int r = 0;
    while (r == 0 && !atomic_load(&a->stop)) {
        renew_if_due(a, line, &renew_ns);
        r = tlsline_run(line, ROUND_MS, on_line, a);
    }
    pthread_mutex_lock(&a->lock);
    a->line = NULL;
    pthread_mutex_unlock(&a->lock);
    if (r == DMT_E_AUTH)
        dmt_err_set(err, r, "%s", tlsline_why(line, r));
    else if (r < 0)
        dmt_warn("controller %s: connection ended: %s", a->controller, tlsline_why(line, r));
    return r;
}

void *agent_link_main(void *arg)
{
    struct agent *a = arg;
    bool warned = false, refused = false;
    while (!atomic_load(&a->stop)) {
        struct tlsline *line = NULL;
        struct dmt_err err = {0};
        int r = open_link(a, &line, &err);
        if (r == 0) {
            if (!refused)
                dmt_info("controller %s: connected", a->controller);
            r = run_link(a, line, &err);
            tlsline_free(line);
            warned &= r == DMT_E_AUTH; /* a client learns of it only after the handshake */
        }
        refused = r == DMT_E_AUTH;
        if (err.msg[0] && !warned) {
            dmt_warn("controller %s: %s%s%s", a->controller, err.msg, err.hint[0] ? "; " : "",
                     err.hint);
            warned = true;
        }
        struct timespec pause = {.tv_nsec = RETRY_MS * 1000000};
        if (!atomic_load(&a->stop))
            nanosleep(&pause, NULL);
    }
    return NULL;
}
