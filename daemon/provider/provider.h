/* provider.h: where machines come from. One table of functions a provider. All calls block; any thread. create is idempotent
 * by label: asked twice with the same label it makes one machine and answers the same both times. */
#ifndef DMT_DAEMON_PROVIDER_PROVIDER_H
#define DMT_DAEMON_PROVIDER_PROVIDER_H

#include <jansson.h>
#include "fs/base/conf.h"
#include "fs/base/err.h"
#include "fs/base/limits.h"

struct provider_spec {
    const char *name;    /* node name */
    const char *label;   /* unique for this request */
    const json_t *files; /* {"/etc/dumont/...": "content"}: there before dumontd starts */
};

struct provider_node {
    char name[DMT_NODE_NAME_MAX + 1];
    char address[256];
    char state[16]; /* "running", "off", "paused" */
};

struct provider {
    const char *name;
    int (*create)(struct provider *p, const struct provider_spec *spec, struct provider_node *ret, struct dmt_err *err);
    /* Calls fn for each machine that exists. */
    int (*list)(struct provider *p, int (*fn)(void *ctx, const struct provider_node *n), void *ctx, struct dmt_err *err);
    /* 0 also when there is no such machine. After it the machine runs no more: word of death. */
    int (*destroy)(struct provider *p, const char *name, struct dmt_err *err);
    void (*free)(struct provider *p);
};

/* The provider of that name, set up from dumontd.conf (provider.NAME=...), or NULL with err set. */
struct provider *provider_open(const char *name, const struct dmt_conf *conf, struct dmt_err *err);

#endif
