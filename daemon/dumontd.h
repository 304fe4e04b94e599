/* dumontd.h: the daemon as a whole: what run.c sets up and the API reads. */
#ifndef DMT_DAEMON_DUMONTD_H
#define DMT_DAEMON_DUMONTD_H

#include "daemon/agent/agent.h"
#include "daemon/common/token.h"
#include "daemon/controller/controller.h"
#include "fs/base/conf.h"
#include "fs/base/limits.h"

struct dumontd {
    char node[DMT_NODE_NAME_MAX + 1];
    struct dmt_conf *conf;   /* dumontd.conf, read once */
    struct dmt_tls_ctx *tls; /* NULL: no certificates here */
    struct agent *agent;     /* NULL: role is controller only */
    struct ctl *ctl;         /* NULL: role is agent only */
};

int dumontd_run_main(int argc, char **argv); /* the daemon */
int dumontd_ca_main(int argc, char **argv);    /* dumontd ca ... */
int dumontd_token_main(int argc, char **argv); /* dumontd token NODE */
int dumontd_join_main(int argc, char **argv);  /* dumontd join TOKEN */
/* A token by which `node` may join this controller, once, within that time. */
#define DUMONTD_TOKEN_MS (3600ull * 1000)
int dumontd_token(const struct dmt_conf *conf, const char *node, uint64_t expires_ms, char ret[TOKEN_MAX],
                  struct dmt_err *err);
/* Joins by it: key, certificate and CA are there afterwards. DMT_E_AUTH: refused, for good. */
int dumontd_join(const char *token, struct dmt_err *err);
/* Its file, laid there by whoever makes a machine: dumontd joins by it when it starts for the first time, and removes it. */
#define DUMONTD_TOKEN_FILE "tls/join-token"
/* One sentence to standard error, and what to do below it. Returns 1. */
int dumontd_complain(const struct dmt_err *err);
/* A CA of this machine in dir: ca.pem, ca.key. Refused when there is one. */
int dumontd_ca_init(const char *dir, struct dmt_err *err);
/* Makes certificate and key of a node with the CA of this machine into dir: node.pem, node.key, ca.pem. */
int dumontd_ca_issue(const char *ca_dir, const char *node, const char *dir, struct dmt_err *err);
/* Name of this machine: node= of the configuration (NULL: ETC/dumontd.conf is read), or the host name up to its first dot.
 */
void dumontd_node_name(const struct dmt_conf *conf, char ret[DMT_NODE_NAME_MAX + 1]);
/* Path of a file of the TLS directory: tls_ca, tls_cert, tls_key of the configuration, or ETC/tls/NAME. */
void dumontd_tls_path(const struct dmt_conf *conf, const char *key, const char *name, char ret[DMT_PATH_MAX]);

/* Where the controller keeps its database: state=, or STATE/dumontd. */
void dumontd_state_dir(const struct dmt_conf *conf, char ret[DMT_PATH_MAX]);

#endif
