/* dumont.h: what the verbs of the `dumont` command share: dispatch, the control socket's client, printing. One thread.
 *
 * Exit codes (man page dumont(1)): 0 done; 1 usage or configuration; 2 the operation failed; 3 no such workspace, or not
 * running here; 4 differences or damage were found (diff, verify, check, doctor).
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
int failf(int exit_code, const char *hint, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* --- workspaces on this machine ---------------------------------------------------------------------------------------- */
bool ws_name_valid(const char *name);
/* Configuration of NAME (may be empty), and its store directory into store. -ENOENT when neither conf nor store exists. */
int ws_load(const char *name, struct dmt_conf **ret_conf, char store[4096], struct dmt_err *err);
void ws_conf_path(const char *name, char path[4096]);
void ws_sock_path(const char *name, char path[108]);
/* Names with a conf file, a store or a socket, sorted; fn per name. */
int ws_each(int (*fn)(void *ctx, const char *name), void *ctx);
/* The workspace whose mount holds `path` (from /proc/self/mountinfo): its name, and the path inside it ("/a/b"). */
int ws_of_path(const char *path, char name[65], char inside[4096], struct dmt_err *err);

/* --- the workspace's control socket (docs/formats.md "Control socket") ---------------------------------------------------- */
/* One request, progress lines shown as a bar (terminal) or ignored, one result: *ret_result owned by the caller. request is
 * stolen. -ENOENT / -ECONNREFUSED when no process serves the workspace. */
int control_call(const char *name, json_t *request, json_t **ret_result, struct dmt_err *err);
/* The same by HTTP to dumontd on this machine. method "GET"/"POST"/"DELETE"; body may be NULL (stolen). */
int dumontd_call(const char *method, const char *path, json_t *body, json_t **ret_result, struct dmt_err *err);

/* --- printing -------------------------------------------------------------------------------------------------------------- */
const char *human_bytes(uint64_t n, char buf[32]);
/* In the user's zone: "2026-11-23 22:10:06". */
const char *local_time(uint64_t ns, char buf[32]);
const char *human_ms(uint64_t ms, char buf[32]);
/* A bar on a terminal once a second has passed; done <= total, total 0 = unknown. progress_end clears it. */
void progress(const char *what, uint64_t done, uint64_t total);
void progress_end(void);
/* Prints v (with --json) and returns EXIT_OK. */
int print_json(const json_t *v);
uint64_t json_u64(const json_t *obj, const char *key);
const char *json_str(const json_t *obj, const char *key); /* "" if absent */
bool json_bool(const json_t *obj, const char *key);

#endif
