/* local.c: the provider "local": machines made by a local cloud (dumontd local-cloud), over its
 * socket.
 *
 * Owns the path of the socket. Each call is one question and one answer. Idempotence by label is
 * the cloud's. Failure modes: no cloud, or a refusal: its sentence. Thread: any, calls block.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/common/jline.h"
#include "daemon/provider/local.h"
#include "daemon/provider/provider.h"

#define ANSWER_MS 70000

struct local_provider {
    struct provider p;
    char socket[108];
};

static const char *socket_of(struct provider *p)
{
    return ((struct local_provider *)p)->socket;
}

static int ask(struct provider *p, json_t *q, json_t **ret, struct dmt_err *err)
{
    json_t *a = NULL;
    int r = jline_ask(socket_of(p), q, ANSWER_MS, &a, err);
    json_decref(q);
    if (r < 0)
        return r;
    if (!jline_bool(a, "ok", false)) {
        r = -(int)jline_int(a, "code", EIO);
        dmt_err_set(err, r, "%s", jline_str(a, "error", "the local cloud refuses"));
        json_decref(a);
        return r;
    }
    *ret = a;
    return 0;
}

static int create(struct provider *p, const struct provider_spec *spec, struct provider_node *ret,
                  struct dmt_err *err)
{
    json_t *a = NULL;
    int r = ask(p,
                json_pack("{s:s s:s s:s s:O}", "op", "create", "name", spec->name, "label",
                          spec->label, "files", (json_t *)(uintptr_t)spec->files),
                &a, err);
    if (r < 0)
        return r;
    (void)snprintf(ret->name, sizeof(ret->name), "%s", spec->name);
    (void)snprintf(ret->address, sizeof(ret->address), "%s", jline_str(a, "address", ""));
    (void)snprintf(ret->state, sizeof(ret->state), "running");
    json_decref(a);
    return 0;
}

static int list(struct provider *p, int (*fn)(void *ctx, const struct provider_node *n), void *ctx,
                struct dmt_err *err)
{
    json_t *a = NULL, *h;
    size_t i;
    int r = ask(p, json_pack("{s:s}", "op", "list"), &a, err);
    json_array_foreach(json_object_get(a, "hosts"), i, h)
    {
        struct provider_node n = {0};
        (void)snprintf(n.name, sizeof(n.name), "%s", jline_str(h, "name", ""));
        (void)snprintf(n.address, sizeof(n.address), "%s", jline_str(h, "address", ""));
        (void)snprintf(n.state, sizeof(n.state), "%s", jline_str(h, "state", ""));
        if (r == 0)
            r = fn(ctx, &n);
    }
    json_decref(a);
    return r;
}

static int destroy(struct provider *p, const char *name, struct dmt_err *err)
{
    json_t *a = NULL;
    int r = ask(p, json_pack("{s:s s:s}", "op", "destroy", "name", name), &a, err);
    json_decref(a);
    return r;
}

static void free_it(struct provider *p)
{
    free(p);
}

struct provider *local_provider_open(const char *socket, struct dmt_err *err)
{
    struct local_provider *l = calloc(1, sizeof(*l));
    if (!l || strlen(socket) >= sizeof(l->socket)) {
        free(l);
        dmt_err_set(err, -EINVAL, "provider.local: the path of the socket is too long");
        return NULL;
    }
    (void)snprintf(l->socket, sizeof(l->socket), "%s", socket);
    l->p = (struct provider){
        .name = "local", .create = create, .list = list, .destroy = destroy, .free = free_it};
    return &l->p;
}
