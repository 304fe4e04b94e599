/* run.c: the daemon: configuration, roles, life.
 *
 *   dumontd [--config FILE] [--foreground]
 *
 * Owns struct dumontd. Happy path: read ETC/dumontd.conf, load certificates, start controller,
 * agent and API as `role` says, say "ready", wait for SIGTERM or SIGINT, stop API, agent,
 * controller in this order. Workspace processes and mounts go on without it. Without --foreground
 * it goes to the background once it serves, so that a script that starts it can go on, and an error
 * is still seen by the caller. Failure modes: each is one sentence and exit code 1; what was
 * started is stopped. A controller without a CA makes one, and its own certificate. Thread: main;
 * the parts have their own.
 */
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon/api/api.h"
#include "daemon/dumontd.h"
#include "fs/base/io.h"
#include "fs/base/log.h"
#include "fs/base/options.h"

#define CERT_LIFE_MS    (365ull * 24 * 3600 * 1000)
#define JOIN_PATIENCE_S 60

struct options {
    const char *config;
    bool foreground;
};

static int usage(void)
{
    (void)fprintf(stderr, "usage: dumontd [--config FILE] [--foreground]\n"
                          "       dumontd token NODE [--expires TIME]\n"
                          "       dumontd join TOKEN\n"
                          "       dumontd ca init|renew|issue ...\n"
                          "       dumontd local-cloud|local-host ...\n"
                          "       dumontd --version\n");
    return 2;
}

static int log_error(const struct dmt_err *err)
{
    dmt_error("%s%s%s", err->msg, err->hint[0] ? "; " : "", err->hint);
    return 1;
}

/* --- configuration --- */

static int load_conf(struct dumontd *d, const struct options *o, struct dmt_err *err)
{
    static const char *const keys[] = {
        "node",      "role", "controller", "listen",   "http",    "state",    "provider.local",
        "advertise", "log",  "tls_ca",     "tls_cert", "tls_key", "cert_life"};
    char dflt[DMT_PATH_MAX];
    (void)snprintf(dflt, sizeof(dflt), "%s/dumontd.conf", dmt_dir_etc());
    d->conf = dmt_conf_new();
    int r = dmt_conf_load(d->conf, o->config ? o->config : dflt, err);
    if (r == -ENOENT && !o->config)
        r = 0; /* all defaults: an agent on its own */
    for (size_t i = 0; r == 0 && i < dmt_conf_count(d->conf); i++) {
        bool known = false;
        for (size_t k = 0; k < sizeof(keys) / sizeof(keys[0]); k++)
            known |= strcmp(keys[k], dmt_conf_key(d->conf, i)) == 0;
        if (!known)
            r = dmt_err_set(err, DMT_E_CONFIG, "dumontd.conf: unknown key '%s'",
                            dmt_conf_key(d->conf, i));
    }
    if (r == 0)
        dumontd_node_name(d->conf, d->node);
    const char *log = dmt_conf_get(d->conf, "log");
    if (r == 0 && log && dmt_log_level_parse(log) < 0)
        r = dmt_err_set(err, DMT_E_CONFIG, "dumontd.conf: log=%s: use error, warn, info or debug",
                        log);
    else if (r == 0 && log)
        dmt_log_set_level((enum dmt_log_level)dmt_log_level_parse(log));
    return r;
}

/* "agent", "controller" or both with a comma. */
static int parse_role(const struct dumontd *d, bool *agent, bool *controller, struct dmt_err *err)
{
    const char *role = dmt_conf_get(d->conf, "role");
    char copy[64], *save = NULL;
    (void)snprintf(copy, sizeof(copy), "%s", role ? role : "agent");
    for (char *w = strtok_r(copy, ", ", &save); w; w = strtok_r(NULL, ", ", &save)) {
        if (strcmp(w, "agent") == 0)
            *agent = true;
        else if (strcmp(w, "controller") == 0)
            *controller = true;
        else
            return dmt_err_set(err, DMT_E_CONFIG,
                               "dumontd.conf: role=%s: use agent, controller or both", role);
    }
    return *agent || *controller ? 0
                                 : dmt_err_set(err, DMT_E_CONFIG, "dumontd.conf: role= is empty");
}

/* A machine that somebody made for us has a token and no certificate yet. The controller may be
 * further from up than we are, so it is asked again for a while; what it refuses stays refused. */
static int join_by_file(struct dumontd *d, const char *cert, struct dmt_err *err)
{
    char path[DMT_PATH_MAX], *token = NULL;
    size_t n = 0;
    sigset_t ends;
    const struct timespec pause = {.tv_sec = 1};
    (void)snprintf(path, sizeof(path), "%s/" DUMONTD_TOKEN_FILE, dmt_dir_etc());
    if (access(cert, F_OK) == 0 ||
        dmt_io_read_file(dmt_io_real(), path, 2 * TOKEN_MAX, &token, &n) < 0)
        return 0;
    token[strcspn(token, "\n")] = '\0';
    sigemptyset(&ends);
    sigaddset(&ends, SIGTERM);
    sigaddset(&ends, SIGINT);
    int r = dumontd_join(token, err);
    for (int s = 0; s < JOIN_PATIENCE_S && r < 0 && r != DMT_E_AUTH && r != -EINVAL && r != -EEXIST;
         s++) {
        if (s == 0)
            dmt_warn("cannot join yet: %s", err->msg);
        if (sigtimedwait(&ends, NULL, &pause) > 0)
            break;
        *err = (struct dmt_err){0};
        r = dumontd_join(token, err);
    }
    if (r == 0) {
        dmt_info("%s has joined", d->node);
        (void)unlink(path);
    } else {
        dmt_err_wrap(err, "this machine cannot join by %s", path);
    }
    explicit_bzero(token, n);
    free(token);
    return r;
}

static int load_tls(struct dumontd *d, bool controller, struct dmt_err *err)
{
    char ca[DMT_PATH_MAX], cert[DMT_PATH_MAX], key[DMT_PATH_MAX], dir[DMT_PATH_MAX],
        ca_key[DMT_PATH_MAX + 8];
    dumontd_tls_path(d->conf, "tls_ca", "ca.pem", ca);
    dumontd_tls_path(d->conf, "tls_cert", "node.pem", cert);
    dumontd_tls_path(d->conf, "tls_key", "node.key", key);
    (void)snprintf(dir, sizeof(dir), "%s/tls", dmt_dir_etc());
    (void)snprintf(ca_key, sizeof(ca_key), "%s/ca.key", dir);
    int r = 0;
    bool own = controller && !dmt_conf_get(d->conf, "tls_cert") && !dmt_conf_get(d->conf, "tls_ca");
    if (own && access(ca, F_OK) < 0 && access(ca_key, F_OK) < 0) {
        r = dumontd_ca_init(dir, err);
        if (r == 0)
            dmt_info("made a certificate authority: %s; machines join by dumontd token", ca_key);
    }
    if (r == 0 && own && access(cert, F_OK) < 0 && access(ca_key, F_OK) == 0)
        r = dumontd_ca_issue(dir, d->node, dir, err);
    if (r == 0 && !controller)
        r = join_by_file(d, cert, err);
    if (r == 0)
        r = dmt_tls_ctx_new(&d->tls, ca, cert, key, err);
    if (r < 0)
        dmt_err_hint(err, "on the controller: dumontd token %s; here: dumontd join TOKEN", d->node);
    else if (strcmp(dmt_tls_ctx_name(d->tls), d->node) != 0)
        r = dmt_err_set(err, DMT_E_CONFIG, "this node is called %s but its certificate names %s",
                        d->node, dmt_tls_ctx_name(d->tls));
    return r;
}

/* --- life --- */

static int start_parts(struct dumontd *d, struct api **api, struct dmt_err *err)
{
    bool agent = false, controller = false;
    char db[DMT_PATH_MAX + 16], state[DMT_PATH_MAX], ca[DMT_PATH_MAX], ca_key[DMT_PATH_MAX];
    uint64_t life_ms = CERT_LIFE_MS;
    const char *where = dmt_conf_get(d->conf, "controller"),
               *listen = dmt_conf_get(d->conf, "listen");
    const char *http = dmt_conf_get(d->conf, "http"), *life = dmt_conf_get(d->conf, "cert_life");
    int r = parse_role(d, &agent, &controller, err);
    if (r == 0 && (controller || where))
        r = load_tls(d, controller, err);
    if (r == 0 && life && (dmt_parse_duration_ms(life, &life_ms) < 0 || life_ms < 1000))
        r = dmt_err_set(err, DMT_E_CONFIG, "dumontd.conf: cert_life=%s is not a time", life);
    dumontd_state_dir(d->conf, state);
    dumontd_tls_path(d->conf, "tls_ca", "ca.pem", ca);
    (void)snprintf(ca_key, sizeof(ca_key), "%.4000s/tls/ca.key", dmt_dir_etc());
    (void)snprintf(db, sizeof(db), "%s/controller.db", state);
    if (r == 0 && controller && (r = dmt_io_mkdirs(dmt_io_real(), state, 0700)) < 0)
        dmt_err_set(err, r, "cannot make %s: %s", state, strerror(-r));
    if (r == 0 && controller) {
        struct ctl_conf c = {.listen = listen ? listen : "0.0.0.0:7402",
                             .db = db,
                             .tls = d->tls,
                             .ca = ca,
                             .ca_key = ca_key,
                             .cert_life_s = (int64_t)(life_ms / 1000)};
        r = ctl_start(&d->ctl, &c, err);
    }
    if (r == 0 && agent) {
        struct agent_conf c = {.node = d->node,
                               .controller = where        ? where
                                             : controller ? "127.0.0.1:7402"
                                                          : NULL,
                               .tls = d->tls};
        r = agent_start(&d->agent, &c, err);
    }
    if (r == 0)
        r = api_start(api, d, http ? http : "127.0.0.1:7400", err);
    return r;
}

static void stop_parts(struct dumontd *d, struct api *api)
{
    api_stop(api);
    agent_stop(d->agent);
    ctl_stop(d->ctl);
    dmt_tls_ctx_free(d->tls);
    dmt_conf_free(d->conf);
}

/* 1. the parent waits for the word of the child, which serves; -1 in the child. */
static int go_background(int ready[2])
{
    if (pipe2(ready, O_CLOEXEC) < 0)
        return 1;
    pid_t pid = fork();
    if (pid < 0)
        return 1;
    if (pid == 0) {
        close(ready[0]);
        (void)setsid();
        return -1;
    }
    close(ready[1]);
    char c = 0;
    ssize_t n = read(ready[0], &c, 1);
    if (n == 1 && c == '+')
        return 0;
    (void)waitpid(pid, NULL, 0);
    return 1;
}

static void detach_output(void)
{
    char path[DMT_PATH_MAX];
    (void)dmt_io_mkdirs(dmt_io_real(), dmt_dir_log(), 0755);
    (void)snprintf(path, sizeof(path), "%s/dumontd.log", dmt_dir_log());
    int log = open(path, O_CREAT | O_WRONLY | O_APPEND | O_CLOEXEC, 0640),
        null = open("/dev/null", O_RDWR);
    if (null >= 0)
        dup2(null, 0);
    if (log >= 0 || null >= 0) {
        dup2(log >= 0 ? log : null, 1);
        dup2(log >= 0 ? log : null, 2);
    }
}

static int serve(const struct options *o, int ready_fd)
{
    struct dumontd d = {0};
    struct dmt_err err = {0};
    struct api *api = NULL;
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigprocmask(SIG_BLOCK, &set, NULL);
    (void)signal(SIGPIPE, SIG_IGN);
    (void)signal(SIGHUP, SIG_IGN);
    umask(022);
    int r = load_conf(&d, o, &err), rc = 0;
    if (r == 0)
        r = start_parts(&d, &api, &err);
    if (r < 0) {
        rc = log_error(&err);
    } else {
        dmt_info("node %s serves%s%s", d.node, d.ctl ? " as controller" : "",
                 d.agent ? " as agent" : "");
        if (ready_fd >= 0) {
            detach_output();
            (void)!write(ready_fd, "+", 1);
            close(ready_fd);
        }
        int sig;
        (void)sigwait(&set, &sig);
        dmt_info("signal %d: stopping; mounts go on", sig);
    }
    stop_parts(&d, api);
    return rc;
}

int dumontd_run_main(int argc, char **argv)
{
    static const struct option longs[] = {{"config", required_argument, NULL, 'c'},
                                          {"foreground", no_argument, NULL, 'f'},
                                          {"version", no_argument, NULL, 'v'},
                                          {NULL, 0, NULL, 0}};
    struct options o = {0};
    int k, ready[2];
    while ((k = getopt_long(argc, argv, "", longs, NULL)) != -1) {
        if (k == 'c')
            o.config = optarg;
        else if (k == 'f')
            o.foreground = true;
        else if (k == 'v')
            return printf("dumontd %s\n", DMT_VERSION) > 0 ? 0 : 1;
        else
            return usage();
    }
    if (optind < argc)
        return usage();
    if (o.foreground)
        return serve(&o, -1);
    int r = go_background(ready);
    return r >= 0 ? r : serve(&o, ready[1]);
}
