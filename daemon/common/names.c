/* names.c: what this machine is called, where its files are, how its programs complain. Owns
 * nothing. Threads: any.
 */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "daemon/dumontd.h"
#include "fs/base/options.h"

void dumontd_node_name(const struct dmt_conf *conf, char ret[DMT_NODE_NAME_MAX + 1])
{
    struct dmt_conf *own = NULL;
    char path[DMT_PATH_MAX], host[256] = "";
    if (!conf) {
        own = dmt_conf_new();
        (void)snprintf(path, sizeof(path), "%s/dumontd.conf", dmt_dir_etc());
        (void)dmt_conf_load(own, path, NULL);
        conf = own;
    }
    const char *node = dmt_conf_get(conf, "node");
    (void)gethostname(host, sizeof(host) - 1);
    host[strcspn(host, ".")] = '\0';
    (void)snprintf(ret, DMT_NODE_NAME_MAX + 1, "%s", node && node[0] ? node : host);
    dmt_conf_free(own);
}

int dumontd_complain(const struct dmt_err *err)
{
    (void)fprintf(stderr, "dumontd: %s\n", err->msg);
    if (err->hint[0])
        (void)fprintf(stderr, "%s\n", err->hint);
    return 1;
}

void dumontd_state_dir(const struct dmt_conf *conf, char ret[DMT_PATH_MAX])
{
    const char *set = dmt_conf_get(conf, "state");
    if (set)
        (void)snprintf(ret, DMT_PATH_MAX, "%s", set);
    else
        (void)snprintf(ret, DMT_PATH_MAX, "%s/dumontd", dmt_dir_state());
}

void dumontd_tls_path(const struct dmt_conf *conf, const char *key, const char *name,
                      char ret[DMT_PATH_MAX])
{
    const char *set = dmt_conf_get(conf, key);
    if (set)
        (void)snprintf(ret, DMT_PATH_MAX, "%s", set);
    else
        (void)snprintf(ret, DMT_PATH_MAX, "%s/tls/%s", dmt_dir_etc(), name);
}
