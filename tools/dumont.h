/* dumont.h: what the verbs of the `dumont` command share: dispatch, the control socket's client, printing. One thread (and one
 * that draws the progress).
 *
 * Exit codes (man page dumont(1)): 0 done; 1 usage or configuration; 2 the operation failed; 3 no such workspace, or it (or
 * dumontd, where that is asked) is not running here; 4 differences or damage were found (diff, verify, check, doctor).
 */
#ifndef DMT_TOOLS_DUMONT_H
#define DMT_TOOLS_DUMONT_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include "fs/base/conf.h"
#include "fs/base/err.h"

#define EXIT_OK      0
#define EXIT_USAGE   1
#define EXIT_FAILED  2
#define EXIT_ABSENT  3
#define EXIT_DIFFERS 4

struct verb {
    const char *name;
    const char *args;    /* usage line without the program's name */
    const char *summary;
    int (*run)(int argc, char **argv); /* argv[0] = verb; --json is already taken out; returns an exit code */
};
extern const struct verb verb_status, verb_workspace, verb_snapshot, verb_rollback, verb_restore, verb_receipt, verb_heal,
    verb_flush, verb_handover, verb_promote, verb_fence, verb_check, verb_verify, verb_log, verb_doctor, verb_node;

extern bool opt_json; /* --json: results as one JSON value on stdout, errors as {"error","hint"} on stderr */

/* Prints the verb's usage to stderr; returns EXIT_USAGE. */
int usage_of(const struct verb *v);
/* Prints "dumont: MESSAGE" and the hint; returns exit_code. */
int fail(int exit_code, const struct dmt_err *err);
/* What ws_load returned: no such workspace, else a bad name or configuration. */
int fail_conf(int rc, const struct dmt_err *err);
/* What control_call or dumontd_call returned. */
int fail_call(int rc, const struct dmt_err *err);
int failf(int exit_code, const char *hint, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* --- workspaces on this machine ---------------------------------------------------------------------------------------- */
bool ws_name_valid(const char *name);
/* Configuration of NAME (may be empty), and its store directory into store. -ENOENT when neither conf nor store exists. */
int ws_load(const char *name, struct dmt_conf **ret_conf, char store[4096], struct dmt_err *err);
void ws_conf_path(const char *name, char path[4096]);
void ws_sock_path(const char *name, char path[108]);
/* Its presence says that a person ended this workspace: dumontd does not start it again (until the next boot). */
void ws_stopped_path(const char *name, char path[4096]);
/* Is there a process behind its socket? */
bool ws_runs(const char *name);
/* workspace_stop.c: `dumont workspace stop|start NAME`; exit codes. */
int ws_stop(const char *name);
int ws_start(const char *name);
int ws_restart(const char *name);
/* Names with a conf file, a store or a socket, sorted; fn per name. */
int ws_each(int (*fn)(void *ctx, const char *name), void *ctx);
/* The workspace whose mount holds `path` (from /proc/self/mountinfo): its name, and the path inside it ("/a/b"). 0, CALL_ABSENT
 * when there is none, -errno. */
int ws_of_path(const char *path, char name[65], char inside[4096], struct dmt_err *err);

/* --- the workspace's control socket (docs/formats.md "Control socket") ---------------------------------------------------- */
/* Nobody serves what was asked: no such workspace, its process does not run here, dumontd does not. A number of its own: < 0 is
 * what a process that runs has answered. */
#define CALL_ABSENT 1
/* One request, progress lines shown, one result: *ret_result owned by the caller. request is stolen. 0, CALL_ABSENT or < 0. */
int control_call(const char *name, json_t *request, json_t **ret_result, struct dmt_err *err);
/* The same by HTTP to dumontd on this machine. method "GET"/"POST"/"DELETE"; body may be NULL (stolen). */
int dumontd_call(const char *method, const char *path, json_t *body, json_t **ret_result, struct dmt_err *err);

/* --- printing -------------------------------------------------------------------------------------------------------------- */
const char *human_bytes(uint64_t n, char buf[32]);
/* In the user's zone: "2026-11-23 22:10:06". */
const char *local_time(uint64_t ns, char buf[32]);
const char *human_ms(uint64_t ms, char buf[32]);
/* What is being done or waited for. On a terminal a bar once a second has passed; elsewhere one sentence after three. total 0 =
 * unknown; unit "B" = bytes, else a word. progress_end clears it. */
void progress(const char *what, uint64_t done, uint64_t total, const char *unit);
void progress_end(void);
/* A string of any bytes: those that are not UTF-8 stand as Latin-1, JSON cannot hold them otherwise. */
json_t *json_bytes(const char *s);
/* Prints v (with --json) and returns EXIT_OK. */
int print_json(const json_t *v);
uint64_t json_u64(const json_t *obj, const char *key);
const char *json_str(const json_t *obj, const char *key); /* "" if absent */
bool json_bool(const json_t *obj, const char *key);

#endif
