/* options.h: every option of a workspace, in one table: what may stand in mount -o, in /etc/dumont/workspaces/NAME.conf and in
 * `dumont workspace set`. Checking happens here, once, with sentences a person can act on. Pure functions, any thread. */
#ifndef DMT_BASE_OPTIONS_H
#define DMT_BASE_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include "fs/base/conf.h"
#include "fs/base/err.h"

enum dmt_option_kind {
    DMT_OPT_FLAG,     /* no value */
    DMT_OPT_CHOICE,   /* one of `values` */
    DMT_OPT_SIZE,     /* dmt_parse_size */
    DMT_OPT_DURATION, /* dmt_parse_duration_ms; a bare number is seconds */
    DMT_OPT_PATH,     /* absolute path */
    DMT_OPT_ADDR,     /* HOST:PORT; may be empty where `values` is "empty" */
    DMT_OPT_URL,      /* scheme of `values`, then "://" and something; or the word bucket where listed */
    DMT_OPT_OWNER,    /* USER[:GROUP], names or numbers */
    DMT_OPT_TEXT,     /* anything not empty */
    DMT_OPT_DROP,     /* for fstab and mount(8) only: accepted and dropped, with or without value */
};

/* Where an option may stand. */
#define DMT_OPT_IN_MOUNT 1u /* mount -o */
#define DMT_OPT_IN_CONF  2u /* NAME.conf, dumont workspace set */
#define DMT_OPT_IN_BOTH  3u
#define DMT_OPT_VFS      4u /* a flag of mount(2), meant for the kernel */

struct dmt_option {
    const char *key;
    enum dmt_option_kind kind;
    unsigned where;
    const char *values; /* choices, schemes; NULL if none */
    const char *help;   /* one line */
};

/* All of them, in the order of the manual; ends with key NULL. */
const struct dmt_option *dmt_option_table(void);
/* NULL if unknown. x-*, X-* and comment= are found as DMT_OPT_DROP. */
const struct dmt_option *dmt_option_find(const char *key);

/* Checks one key and value for a place (DMT_OPT_IN_MOUNT or _CONF). 0 or DMT_E_CONFIG. */
int dmt_option_check(const char *key, const char *value, unsigned where, struct dmt_err *err);
/* Every key of c. sloppy (mount -s): unknown keys are removed instead of refused. Dropped kinds are removed; of opposites
 * (ro/rw, suid/nosuid ...) the later one stays. */
int dmt_options_clean(struct dmt_conf *c, unsigned where, bool sloppy, struct dmt_err *err);
/* Puts every key of `over` into c; opposites of what it says are removed from c. */
void dmt_options_merge(struct dmt_conf *c, const struct dmt_conf *over);
/* What only the whole can tell: a standby needs an arbiter, sync=fsync and degrade= need a standby ... 0 or DMT_E_CONFIG. */
int dmt_options_consistent(const struct dmt_conf *c, struct dmt_err *err);
/* "key=value,flag,key=\"a,b\"" as dmt_conf_options reads it. Caller frees; NULL when out of memory. */
char *dmt_options_join(const struct dmt_conf *c);
/* A name of a workspace: [A-Za-z0-9][A-Za-z0-9._-]*, at most DMT_WS_NAME_MAX bytes. 0 or DMT_E_CONFIG. */
int dmt_workspace_name_check(const char *name, struct dmt_err *err);

/* Where things are. Each takes the place of its environment variable first (tests, several hosts on one machine):
 * DUMONT_ETC (/etc/dumont), DUMONT_RUN (/run/dumont), DUMONT_STATE (/var/lib/dumont), DUMONT_LOG (/var/log/dumont). */
const char *dmt_dir_etc(void);
const char *dmt_dir_run(void);
const char *dmt_dir_state(void);
const char *dmt_dir_log(void);

#endif
